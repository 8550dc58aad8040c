"""Maps of a frozen backbone: what is kept is what the network gives, made once, and known by what it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from maskwright.data import open_dataset
from maskwright.data.augment import normalise, resize_image
from maskwright.data.scenes import scenes
from maskwright.inference.features import BATCH_PIXELS, FeatureStore, kept_levels
from maskwright.models import create_backbone, create_classifier, create_model
from maskwright.settings import DataSettings

SIZE = (64, 64)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = create_classifier(backbone="resnet10t", num_tags=3)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
    return made.eval()


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many images each call of the network had."""
    calls, compute = [], FeatureStore._computed

    def watched(self, images):
        calls.append(len(images))
        return compute(self, images)

    monkeypatch.setattr(FeatureStore, "_computed", watched)
    return calls


def photographs(folder: Path, count: int = 3) -> Path:
    data = scenes("train", count=count, size=SIZE)
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(data[index].image).save(folder / f"{index}.png")
    (folder / "tags.csv").write_text("image,tags\n" + "\n".join(f"{index}.png,cat" for index in range(count)))
    return folder


def opened(folder: Path):
    return open_dataset(DataSettings(root=str(folder), tags=str(folder / "tags.csv")), "train")


@torch.no_grad()
def expected(network: nn.Module, image: np.ndarray, seen: tuple[int, int]) -> list[torch.Tensor]:
    """Every level's maps of an image and its mirror, in float32."""
    pixels = torch.tensor(resize_image(image, seen)).permute(2, 0, 1)[None]
    view = normalise(pixels, network.mean, network.std)
    return [torch.cat(both) for both in zip(network.backbone(view), network.backbone(view.flip(-1)), strict=True)]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal to half precision, of which the highest value has 11 bits."""
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, rtol=2**-10, atol=1e-5 * float(wanted.abs().max()))


def test_maps_are_those_of_the_backbone_for_an_image_and_its_mirror(network, tmp_path, computed):
    data = scenes("train", count=3, size=SIZE)
    levels = list(range(1, len(network.backbone.strides)))
    store = FeatureStore(network, data, tmp_path, "cpu", levels=levels)
    store.make([None])
    made = list(computed)
    for index in range(3):
        wanted = expected(network, data[index].image, SIZE)
        found = store.maps(index, store.seen(index, None))
        for level, maps in zip(levels, found, strict=True):
            close(maps, wanted[level])
            assert not torch.equal(maps[0], maps[1].flip(-1))  # a mirror is seen anew
    assert computed == made
    assert sum(made) == 3


def test_a_network_is_left_in_its_mode_and_its_training_changes_no_map(tmp_path):
    """Nothing can be folded without normalisations: the store must have a copy nevertheless."""

    class Plain(nn.Module):
        mean = std = (0.5, 0.5, 0.5)
        name, strides, pooled = "plain", [4], True

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Dropout(0.5))

        def forward(self, images):
            return [self.layers(images)]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Plain()

        def forward(self, images):
            return self.backbone(images)[0]

    network = Network().train()
    store = FeatureStore(network, scenes("train", count=1, size=SIZE), tmp_path, "cpu")
    assert network.training
    assert network.backbone.layers[1].training
    network.train()
    before = store.maps(0, SIZE)[0]
    with torch.no_grad():
        network.backbone.layers[0].weight.add_(1)
    assert torch.equal(before, store.maps(0, SIZE)[0])


def test_what_is_there_is_not_made_again(network, tmp_path, computed):
    data = scenes("train", count=4, size=SIZE)
    for _ in range(2):
        store = FeatureStore(network, data, tmp_path, "cpu")
        store.make([None])
        store.make([None])
    assert sum(computed) == 4


def test_another_network_has_its_own_maps(network, tmp_path, computed):
    data = scenes("train", count=2, size=SIZE)
    torch.manual_seed(1)
    other = create_classifier(backbone="resnet10t", num_tags=3).eval()
    stores = [FeatureStore(made, data, tmp_path, "cpu") for made in (network, other)]
    for store in stores:
        store.make([None])
    assert sum(computed) == 4
    assert stores[0].folder != stores[1].folder
    assert not torch.equal(stores[0].maps(0, SIZE)[0], stores[1].maps(0, SIZE)[0])


def test_a_changed_head_finds_the_maps(network, tmp_path):
    data = scenes("train", count=1, size=SIZE)
    before = FeatureStore(network, data, tmp_path, "cpu").file(0, SIZE)
    more = create_classifier(backbone="resnet10t", num_tags=7).eval()
    more.backbone.load_state_dict(network.backbone.state_dict())
    assert FeatureStore(more, data, tmp_path, "cpu").file(0, SIZE) == before


def test_images_that_moved_are_known_and_changed_ones_are_not(network, tmp_path, computed):
    folder = photographs(tmp_path / "photos")
    count = len(opened(folder))
    FeatureStore(network, opened(folder), tmp_path / "kept", "cpu").make([None])
    assert sum(computed) == count >= 2
    moved = folder.rename(tmp_path / "moved")
    FeatureStore(network, opened(moved), tmp_path / "kept", "cpu").make([None])
    assert sum(computed) == count
    path = opened(moved).images[1]
    changed = np.array(Image.open(path))
    changed[:32] = 255 - changed[:32]
    Image.fromarray(changed).save(path)
    store = FeatureStore(network, opened(moved), tmp_path / "kept", "cpu")
    assert [store.file(index, SIZE).is_file() for index in range(count)] == [index != 1 for index in range(count)]
    store.make([None])
    close(store.maps(1, SIZE)[0], expected(network, changed, SIZE)[-1])


def test_what_has_no_room_is_computed_with_the_same_values(network, tmp_path, computed, monkeypatch):
    monkeypatch.setitem(BATCH_PIXELS, "cpu", 2 * SIZE[0] * SIZE[1])  # an image and its mirror
    data = scenes("train", count=4, size=SIZE)
    whole = FeatureStore(network, data, tmp_path / "whole", "cpu")
    whole.make([None])
    each = whole.maps(0, SIZE)[0].nbytes
    computed.clear()
    small = FeatureStore(network, data, tmp_path / "small", "cpu", limit=2 * each)
    small.make([None])
    files = [small.file(index, SIZE).is_file() for index in range(4)]
    assert files == [True, True, False, False]
    assert computed == [1, 1]
    for index in range(4):
        assert torch.equal(small.maps(index, SIZE)[0], whole.maps(index, SIZE)[0])
    assert computed == [1, 1, 1, 1]
    again = FeatureStore(network, data, tmp_path / "small", "cpu", limit=2 * each)
    again.make([None])
    assert computed == [1, 1, 1, 1]  # files of before count


def test_what_heads_read_is_kept_and_without_a_word_of_them_all_that_is_small():
    model = create_model("light", backbone="resnet10t", num_classes=3)
    assert model.backbone.strides == [2, 4, 8, 16, 32]
    assert kept_levels(model.backbone) == [2, 4]
    model.add_auxiliary({"aux": [16]})
    assert kept_levels(model.backbone) == [2, 3, 4]
    assert kept_levels(create_backbone("resnet10t")) == [1, 2, 3, 4]


def test_another_level_is_made_once_too(network, tmp_path, computed):
    data = scenes("train", count=2, size=SIZE)
    FeatureStore(network, data, tmp_path, "cpu").make([None])
    finer = FeatureStore(network, data, tmp_path, "cpu", levels=[2, -1])
    wanted = expected(network, data[1].image, SIZE)
    for maps, level in zip(finer.maps(1, SIZE), (2, -1), strict=True):
        close(maps, wanted[level])
    computed.clear()
    finer.make([None])
    assert computed == [2]
    for maps, level in zip(finer.maps(1, SIZE), (2, -1), strict=True):
        close(maps, wanted[level])
    coarse = FeatureStore(network, data, tmp_path, "cpu")
    coarse.make([None])
    close(coarse.maps(1, SIZE)[0], wanted[-1])
    assert computed == [2]


def test_a_batch_that_was_half_made_is_made_again_whole(network, tmp_path, computed):
    data = scenes("train", count=4, size=SIZE)
    store = FeatureStore(network, data, tmp_path, "cpu")
    store.make([None])
    kept = [store.maps(index, SIZE)[0].clone() for index in range(4)]  # which else lie in the files
    store.file(2, SIZE).unlink()
    store.file(3, SIZE).write_bytes(b"cut off")
    computed.clear()
    store.make([None])
    assert computed == [4]
    assert all(torch.equal(store.maps(index, SIZE)[0], kept[index]) for index in range(4))
    assert computed == [4]


def test_two_sizes_lie_side_by_side(network, tmp_path, computed):
    data = scenes("train", count=2, size=(48, 64))
    store = FeatureStore(network, data, tmp_path, "cpu")
    store.make([96, None], [1.0, 0.5])
    assert computed == [2] * 4
    for size, scale, seen in ((96, 1.0, (72, 96)), (96, 0.5, (36, 48)), (None, 1.0, (48, 64)), (None, 0.5, (24, 32))):
        assert store.seen(0, size, scale) == seen
        close(store.maps(0, seen)[0], expected(network, data[0].image, seen)[-1])
    assert computed == [2] * 4
