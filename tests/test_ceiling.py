import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.models import create_model
from maskwright.models.dupsampling_fit import fit_label_basis, label_patches
from maskwright.studies.ceiling import measure_ceiling, table, through_basis, through_bilinear

LABELS = LabelSpace(("ground", "thing", "pole"))


def scene(seed, height=48, width=72):
    """Ground, a big thing, poles two pixels wide at random columns, a strip without labels."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    mask[10 : 10 + rng.integers(12, 30), 8:40] = 1
    for left in rng.choice(width - 2, 4, replace=False):
        mask[rng.integers(0, 10) :, left : left + 2] = 2
    mask[-2:] = 255
    return mask


class Scenes:
    labels = LABELS

    def __init__(self, seeds, masked=True):
        self.seeds, self.masked = list(seeds), masked

    def __len__(self):
        return len(self.seeds)

    def has_mask(self, index):
        return self.masked

    def mask(self, index):
        return scene(self.seeds[index])


def basis_of(ratio, dim, seeds=range(20)):
    return fit_label_basis(label_patches([scene(seed) for seed in seeds], ratio, 3), dim)


def test_both_ways_restore_labels_where_nothing_is_lost():
    labels = torch.from_numpy(scene(0))[None]
    valid = labels != 255
    assert torch.equal(through_bilinear(labels, 3, 1, 255)[valid], labels.long()[valid])
    weight = torch.from_numpy(basis_of(4, 48).weight)
    assert torch.equal(through_basis(labels, weight, 3, 4, 255)[valid], labels[valid])


@pytest.mark.parametrize("size", [(48, 72), (45, 70)])
def test_bilinear_is_pooled_shares_resized(size):
    labels = torch.from_numpy(scene(1)[: size[0], : size[1]].copy())[None]
    valid = (labels != 255)[:, None].float()
    one_hot = F.one_hot(labels.long() * (labels != 255), 3).permute(0, 3, 1, 2) * valid
    room = (0, -size[1] % 8, 0, -size[0] % 8)
    sums, counted = (F.avg_pool2d(F.pad(x.float(), room), 8) for x in (one_hot, valid))
    shares = sums / counted.clamp(min=1e-9)
    large = F.interpolate(shares, scale_factor=8, mode="bilinear", align_corners=False)
    expected = large[:, :, : size[0], : size[1]].argmax(1)
    found = through_bilinear(labels, 3, 8, 255)
    assert found.shape == labels.shape
    assert (found == expected).float().mean() > 0.999  # ties


def test_thin_things_need_the_basis():
    scores = measure_ceiling(Scenes(range(100, 106)), [basis_of(16, 60), basis_of(8, 40)])
    assert list(scores) == [8, 16]
    for by_kind in scores.values():
        poles = {kind: found["per_class"]["pole"]["iou"] for kind, found in by_kind.items()}
        assert poles["bilinear"] < 0.3 < 0.7 < poles["dupsampling"]
        assert by_kind["bilinear"]["pixels"] == 6 * 46 * 72
    assert scores[8]["bilinear"]["miou"] > scores[16]["bilinear"]["miou"]


def test_more_dimensions_restore_more():
    judged = Scenes(range(100, 104))
    found = [measure_ceiling(judged, [basis_of(8, dim)])[8]["dupsampling"]["miou"] for dim in (3, 20, 60)]
    assert found == sorted(found)
    assert found[0] < found[2]


def test_nothing_to_judge():
    with pytest.raises(DataError, match="no image of the split to evaluate on has a mask"):
        measure_ceiling(Scenes([0], masked=False), [basis_of(8, 4)])


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nthing\npole\n")
    for split, seeds in (("train", range(6)), ("val", range(100, 103))):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"s{seed}\n" for seed in seeds))
        for seed in seeds:
            mask = scene(seed)
            Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(root / "JPEGImages" / f"s{seed}.jpg")
            Image.fromarray(mask).save(root / "SegmentationClass" / f"s{seed}.png")
    return root


def test_command(voc, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["ceiling", str(voc), "ratio=8,16", "dim=300", f"out={out}"])
    assert result.exit_code == 0, result.output
    stored = json.loads((out / "ceiling.json").read_text())
    assert stored["judged"] == {"split": "val", "masks": 3}
    assert stored["fitted"] == {"split": "train", "masks": 6}
    assert {ratio: entry["dim"] for ratio, entry in stored["ratios"].items()} == {"8": 192, "16": 300}
    assert "DUpsampling 192 to 300" in result.output
    means = [stored["ratios"][ratio][kind]["miou"] for ratio in ("8", "16") for kind in ("bilinear", "dupsampling")]
    (line,) = [line for line in result.output.splitlines() if line.startswith("mIoU* ")]
    assert line.split()[1:] == [f"{100 * mean:.1f}" for mean in means]
    rows = [line.split()[0] for line in result.output.splitlines() if line.startswith(LABELS.names)]
    assert rows[0] == "pole"
    with Image.open(out / "ceiling.png") as picture:
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(2**24)) > 50
    model = create_model(
        "dupsampling",
        num_classes=3,
        output_stride=16,
        decoder_channels=8,
        dim=20,
        label_basis=str(out / "label_basis-16.npz"),
    )
    model.prepare(None, tmp_path)
    assert torch.equal(model.basis, torch.from_numpy(16 * np.load(out / "label_basis-16.npz")["weight"][:, :20]))


def test_long_tables_are_cut():
    labels = LabelSpace(tuple(f"class {number}" for number in range(30)))
    per_class = {name: {"iou": number / 30, "pixels": number} for number, name in enumerate(labels.names)}
    kinds = {kind: {"per_class": per_class, "miou": 0.5} for kind in ("bilinear", "dupsampling")}
    share = {"masks": 1, "split": "val"}
    lines = table({"ratios": {"8": {"dim": 5, **kinds}}, "judged": share, "fitted": share}, labels)
    assert lines[-2] == "... and 9 more classes, in ceiling.json"
    assert "class 1 " in lines[5]


@pytest.mark.parametrize("setting", ["ratio=0", "ratio=8,x", "ratio=[]", "dim=0"])
def test_mistakes(voc, setting, tmp_path):
    result = CliRunner().invoke(app, ["ceiling", str(voc), setting, f"out={tmp_path / 'out'}"])
    assert isinstance(result.exception, RecipeError)
    assert setting.split("=")[0] in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_basis_knows_borders_where_all_of_them_are_ignored():
    """As in PASCAL VOC: most cells are of one class and clean, those with two classes all have ignored pixels."""

    def bordered(seed):
        down, across = np.mgrid[:64, :96]
        slope, start = np.random.default_rng(seed).uniform((0.3, 30), (3, 70))
        distance = down * slope + across - start
        return np.where(np.abs(distance) < 0.9, 255, distance > 0).astype(np.uint8)

    masks = [bordered(seed) for seed in range(20)]
    basis = fit_label_basis(label_patches(masks, 8, 2), 16)
    truth = torch.from_numpy(np.stack([bordered(seed) for seed in range(100, 110)]))
    weight = torch.from_numpy(basis.weight)
    valid = truth != 255
    wrong = [
        (found[valid] != truth[valid]).float().mean()
        for found in (through_basis(truth, weight, 2, 8, 255), through_bilinear(truth, 2, 8, 255))
    ]
    assert wrong[0] < 0.5 * wrong[1]
