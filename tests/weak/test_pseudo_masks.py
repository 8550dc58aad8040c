"""The pseudo-mask artefact: what is written, what it says about itself, and how it goes on."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from maskwright.data import with_masks
from maskwright.data.masks import read_mask, write_mask
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.metrics import ConfusionMatrix
from maskwright.settings import MaskSettings
from maskwright.weak import pseudo_masks, read_provenance, score_masks, seed_labels, write_pseudo_masks
from maskwright.weak.pseudo_masks import sweep_thresholds

FACTS = {"method": "cam", "weights": "0123", "saliency": None, "crf": False, "pretrained": False}
SETTINGS = MaskSettings(threshold=0.4, sweep=(0.2, 0.6, 0.2))


@pytest.fixture
def made(memory_set, save_all, tmp_path):
    """A set, its maps, and a folder for masks; tags of the fourth image are unknown, the third has none."""
    dataset = memory_set(sizes=((24, 40), (32, 24), (24, 40), (24, 40), (16, 16)))
    dataset._tags[2], dataset._tags[3] = (), None
    save_all(dataset, tmp_path / "maps")
    return dataset, tmp_path / "maps", tmp_path / "masks"


def mask_of(folder, name) -> np.ndarray:
    return read_mask(folder / "SegmentationClass" / f"{name}.png")


def test_layout_and_content(made):
    dataset, maps, folder = made
    scores = write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)
    listed = (folder / "ImageSets/Segmentation/train.txt").read_text().split()
    assert listed == [name for index, name in enumerate(dataset.names) if index != 3]
    assert (folder / "classes.txt").read_text().split() == list(dataset.labels.names)
    assert len(list((folder / "SegmentationClass").rglob("*.png"))) == len(listed)
    for name in listed:
        with np.load(maps / f"{name}.npz") as arrays:
            expected = seed_labels(arrays["high_res"], arrays["keys"], 0.4, 0, dataset.labels.foreground)
        assert_array_equal(mask_of(folder, name), expected)
        with Image.open(folder / "SegmentationClass" / f"{name}.png") as picture:
            assert picture.mode == "P"
            assert picture.getpalette()[3:6] == list(dataset.labels.palette[1])
        with Image.open(folder / "Confidence" / f"{name}.png") as picture:
            assert picture.mode == "L"
            assert picture.size == expected.shape[::-1]
    assert not mask_of(folder, dataset.names[2]).any()
    assert scores["split"] == "train"
    assert scores["images"] == 4
    assert scores == json.loads((folder / "scores.json").read_text())


def test_the_rest_of_the_package_can_train_on_it(made):
    dataset, maps, folder = made
    write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)
    both = with_masks(dataset, folder / "SegmentationClass")
    assert_array_equal(both[0].mask, mask_of(folder, dataset.names[0]))


def test_a_split_that_is_a_list_elsewhere_writes_nothing_there(made, tmp_path):
    dataset, maps, folder = made
    elsewhere = tmp_path / "lists" / "mine.txt"
    elsewhere.parent.mkdir()
    dataset.source = {**dataset.source, "split": str(elsewhere)}
    write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)
    assert (folder / "ImageSets/Segmentation/mine.txt").read_text().split()[0] == dataset.names[0]
    assert not any(elsewhere.parent.iterdir())


def test_scores(made):
    dataset, maps, folder = made
    scores = write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)
    confusion = ConfusionMatrix(dataset.labels)
    for index in (0, 1, 2, 4):
        confusion.update(mask_of(folder, dataset.names[index]), dataset.masks[index])
    assert scores["scores"] == confusion.scores()
    assert scores["miou"] == confusion.scores()["miou"]
    assert [row["threshold"] for row in scores["sweep"]] == [0.2, 0.4, 0.6]
    assert scores["sweep"][1]["miou"] == scores["miou"]
    assert scores["best_threshold"] == max(scores["sweep"], key=lambda row: row["miou"])["threshold"]
    assert score_masks(dataset, folder).scores() == scores["scores"]


def test_without_true_masks(memory_set, save_all, tmp_path):
    dataset = memory_set(masks=False)
    save_all(dataset, tmp_path)
    scores = write_pseudo_masks(dataset, tmp_path, SETTINGS, tmp_path / "masks", FACTS)
    assert scores["miou"] is scores["scores"] is scores["best_threshold"] is None
    assert scores["sweep"] == []
    with pytest.raises(RecipeError, match="needs ground truth"):
        write_pseudo_masks(dataset, tmp_path, MaskSettings(threshold="best"), tmp_path / "masks", FACTS)
    with pytest.raises(DataError, match="no image of the set has both"):
        score_masks(dataset, tmp_path / "masks")


def test_best_threshold_is_on_record(made):
    dataset, maps, folder = made
    settings = SETTINGS.model_copy(update={"threshold": "best"})
    scores = write_pseudo_masks(dataset, maps, settings, folder, FACTS)
    assert scores["threshold"] == scores["best_threshold"]
    assert scores["miou"] == max(row["miou"] for row in scores["sweep"])
    assert read_provenance(folder)["ground_truth_tuned"] == ["threshold"]
    write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)
    assert read_provenance(folder)["ground_truth_tuned"] == []


def test_provenance(made):
    dataset, maps, folder = made
    (maps / "maps.json").write_text('{"weights": "0123"}')
    write_pseudo_masks(dataset, maps, SETTINGS, folder, {**FACTS, "crf": {"iterations": 10}})
    record = read_provenance(folder)
    assert record["tag_source"] == "made up"
    assert record["crf"] == {"iterations": 10}
    assert record["threshold"] == 0.4
    assert record["maps"] == {"weights": "0123"}
    assert LabelSpace.from_dict(record["labels"]) == dataset.labels
    with pytest.raises(DataError, match="must say weights, crf"):
        write_pseudo_masks(dataset, maps, SETTINGS, folder, {"method": "cam", "saliency": 0, "pretrained": 0})
    record.pop("saliency")
    (folder / "provenance.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="does not say saliency"):
        read_provenance(folder)
    with pytest.raises(DataError, match="does not exist"):
        read_provenance(maps)


def test_unsure_pixels(made):
    dataset, maps, folder = made
    sure = write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)
    before = {name: mask_of(folder, name) for name in dataset.names if name != dataset.names[3]}
    assert sure["unsure_share"] == 0
    scores = write_pseudo_masks(dataset, maps, SETTINGS.model_copy(update={"ignore_below": 0.5}), folder, FACTS)
    shares = []
    for name, mask in before.items():
        grey = np.asarray(Image.open(folder / "Confidence" / f"{name}.png"))
        assert_array_equal(mask_of(folder, name), np.where(grey < 127.5, 255, mask))
        shares.append(np.mean(grey < 127.5))
    assert scores["unsure_share"] == pytest.approx(np.mean(shares))
    assert 0 < scores["unsure_share"] < 1
    assert scores["scores"]["pixels"] < sure["scores"]["pixels"]
    assert score_masks(dataset, folder).scores() == scores["scores"]


def test_vanished_tags(memory_set, tmp_path):
    dataset = memory_set(sizes=((16, 16),) * 2, tags=[(1, 2), (1,)], masks=False)
    for name, scores in zip(dataset.names, ((1.0, 0.1), (0.9,)), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        maps = np.stack([np.full((16, 16), score, np.float16) for score in scores])
        np.savez(tmp_path / f"{name}.npz", keys=np.arange(len(scores)), high_res=maps)
    found = write_pseudo_masks(dataset, tmp_path, SETTINGS, tmp_path / "masks", FACTS)
    assert found["vanished_tags"] == {"cat": [0, 2], "dog": [1, 1], "cow": [0, 0]}


@pytest.mark.bit_equal
def test_goes_on_where_it_was_stopped(made, monkeypatch):
    dataset, maps, folder = made
    whole = write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)
    gone = dataset.names[1]
    (folder / "SegmentationClass" / f"{gone}.png").unlink()
    written = []

    def note(path, mask, labels):
        written.append(path.stem)
        write_mask(path, mask, labels)

    monkeypatch.setattr(pseudo_masks, "write_mask", note)
    assert write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS) == whole
    assert written == ["image1"]
    write_pseudo_masks(dataset, maps, SETTINGS.model_copy(update={"threshold": 0.5}), folder, FACTS)
    assert len(written) == 1 + 4


def test_counts_of_images_do_not_wait_in_memory(memory_set, save_all, tmp_path, monkeypatch):
    """A matrix of 81 classes takes 52 kB: those of all images must never be there at once."""
    dataset = memory_set(sizes=((24, 24),) * 60)
    save_all(dataset, tmp_path / "maps")
    alive, most = set(), [0]

    class Counted(ConfusionMatrix):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.add(id(self))
            most[0] = max(most[0], len(alive))

        def __del__(self):
            alive.discard(id(self))

    monkeypatch.setattr(pseudo_masks, "ConfusionMatrix", Counted)
    scores = write_pseudo_masks(dataset, tmp_path / "maps", SETTINGS, tmp_path / "masks", FACTS)
    assert scores["images_judged"] == 60
    assert 1 < most[0] < 30


def test_missing_maps(made):
    dataset, maps, folder = made
    (maps / f"{dataset.names[0]}.npz").unlink()
    with pytest.raises(DataError, match=r"image0\.npz does not exist; give the command"):
        write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)


def test_true_mask_of_another_size(made):
    dataset, maps, folder = made
    write_pseudo_masks(dataset, maps, SETTINGS, folder, FACTS)
    dataset.masks[0] = dataset.masks[0][:-1]
    with pytest.raises(DataError, match="image0: pseudo-mask"):
        score_masks(dataset, folder)


def test_sweep_thresholds():
    assert sweep_thresholds(MaskSettings()) == [round(0.05 * step, 2) for step in range(1, 20)]
    assert sweep_thresholds(MaskSettings(sweep=(0.15, 0.34, 0.01)))[-1] == 0.34
    assert sweep_thresholds(MaskSettings(sweep=(0.3, 0.3, 1))) == [0.3]
    for wrong in ((0.1, 0.5, 0), (0.5, 0.1, 0.1)):
        with pytest.raises(RecipeError, match="first <= last"):
            sweep_thresholds(MaskSettings(sweep=wrong))
