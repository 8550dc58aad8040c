"""Order and content of training batches: workers, resume, ranks, small sets, unreadable images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwright.data.augment import Augment
from maskwright.data.loading import EpochSampler, TrainingSet, make_loader
from maskwright.data.sample import LabelSpace, Sample
from maskwright.errors import DataError
from maskwright.settings import AugmentSettings

pytestmark = pytest.mark.versions

LABELS = LabelSpace(("background", "cat", "dog"))


class FakeSet:
    labels = LABELS

    def __init__(self, count: int, broken: int | None = None, error: type[Exception] = DataError) -> None:
        self.names = [f"photos/{index:03d}" for index in range(count)]
        self.broken = broken
        self.error = error

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise self.error(f"{self.names[index]}.jpg is cut short")
        noise = np.random.default_rng(index)
        return Sample(
            self.names[index],
            noise.integers(0, 256, (20, 24, 3), dtype=np.uint8),
            noise.integers(0, 3, (20, 24), dtype=np.uint8),
            (1,),
        )


def training_set(count: int = 11, seed: int = 3, **options) -> TrainingSet:
    settings = AugmentSettings(scale=(0.6, 1.4), crop=(16, 16), color_jitter=0.3, hue=0.1)
    return TrainingSet(FakeSet(count, **options), Augment(settings, LABELS), seed)


def epochs(loader, count: int) -> list[dict[str, torch.Tensor]]:
    return [batch for _ in range(count) for batch in loader]


def assert_same(first, second) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


def test_an_example_depends_on_seed_epoch_and_index_only():
    examples = training_set()
    assert torch.equal(examples[0, 5]["image"], training_set()[0, 5]["image"])
    for other in (examples[1, 5], examples[0, 6], training_set(seed=4)[0, 5], training_set(seed=-3)[0, 5]):
        assert not torch.equal(examples[0, 5]["image"], other["image"])
    assert examples[0, 5]["index"].item() == 5
    again = examples[0, 5 + 11]
    assert again["index"].item() == 5
    assert not torch.equal(again["image"], examples[0, 5]["image"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    expected = epochs(make_loader(training_set(), 3), 2)
    assert_same(epochs(make_loader(training_set(), 3, workers=workers), 2), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch_goes_on_with_the_same_batches(workers):
    whole = epochs(make_loader(training_set(), 3), 3)
    resumed = make_loader(training_set(), 3, workers=workers, position=(1, 2))
    assert len(resumed) == 3
    assert_same(epochs(resumed, 2), whole[5:])
    resumed.sampler.set_position(0, 1)
    assert_same(epochs(resumed, 1), whole[1:3])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iteration_left_early_does_not_disturb_the_next(workers):
    whole = epochs(make_loader(training_set(), 3), 2)
    loader = make_loader(training_set(), 3, workers=workers)
    for batch in loader:
        assert torch.equal(batch["index"], whole[0]["index"])
        break
    assert_same(list(loader), whole[3:])
    loader.sampler.set_position(1, 3)
    assert list(loader) == []


def test_loading_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epochs(make_loader(training_set(), 3, workers=1), 2)
    epochs(make_loader(training_set(), 3), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_are_different_permutations_and_shuffle_can_be_off():
    sampler = EpochSampler(10, 0, batch_size=5)
    first, second = ([key for batch in sampler for key in batch] for _ in range(2))
    assert [epoch for epoch, _ in first + second] == [0] * 10 + [1] * 10
    assert sorted(index for _, index in first) == sorted(index for _, index in second) == list(range(10))
    assert [index for _, index in first] != [index for _, index in second]
    plain = EpochSampler(10, 0, batch_size=4, shuffle=False)
    assert list(plain) == [[(0, 0), (0, 1), (0, 2), (0, 3)], [(0, 4), (0, 5), (0, 6), (0, 7)]]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 12, 13, 25])
def test_ranks_share_an_epoch(length, batch_size, world_size, drop_last):
    samplers = [
        EpochSampler(length, 7, rank=rank, world_size=world_size, batch_size=batch_size, drop_last=drop_last)
        for rank in range(world_size)
    ]
    ranks = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in ranks} == {len(sampler) for sampler in samplers} == {len(samplers[0])}
    assert all(batch for batches in ranks for batch in batches)
    keys = [key for batches in ranks for batch in batches for key in batch]
    assert len(set(keys)) == len(keys)
    indices = [index % length for _, index in keys]
    global_batch = batch_size * world_size
    if drop_last:
        assert all(len(batch) == batch_size for batches in ranks for batch in batches)
        if length >= global_batch:
            assert len(set(indices)) == len(indices) == length // global_batch * global_batch
        else:
            assert len(keys) == global_batch
            assert set(indices) == set(range(length))
    elif length >= world_size:
        assert sorted(indices) == list(range(length))
    else:
        assert set(indices) == set(range(length))
        assert len(keys) == world_size


def test_global_batches_do_not_depend_on_how_many_processes_share_them():
    alone = list(EpochSampler(20, 1, batch_size=6))
    shared = [list(EpochSampler(20, 1, rank=rank, world_size=2, batch_size=3)) for rank in range(2)]
    assert [set(batch) for batch in alone] == [set(a) | set(b) for a, b in zip(*shared)]


def test_a_set_smaller_than_a_batch_still_fills_one():
    batches = list(make_loader(training_set(3), 8, workers=0))
    assert len(batches) == 1
    assert batches[0]["image"].shape == (8, 3, 16, 16)
    assert sorted(batches[0]["index"].tolist())[0::3] == [0, 1, 2]
    same = [place for place in range(8) if batches[0]["index"][place] == 0]
    assert not torch.equal(batches[0]["image"][same[0]], batches[0]["image"][same[1]])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [DataError, OSError])
def test_an_unreadable_image_is_one_data_error_with_its_name(workers, error):
    loader = make_loader(training_set(4, broken=2, error=error), 2, workers=workers)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert "photos/002" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match="0 images"):
        training_set(0)
    with pytest.raises(ValueError, match="batch_size"):
        EpochSampler(3, 0, batch_size=0)
    with pytest.raises(ValueError, match="rank"):
        EpochSampler(3, 0, batch_size=1, rank=2, world_size=2)
