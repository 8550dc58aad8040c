from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from maskwright.engine.checkpoint import (
    load_into,
    load_metadata,
    load_weights,
    save_model,
    weights_hash,
)
from maskwright.errors import DataError
from maskwright.files import file_hash, write_json
from maskwright.models.pretrained import _read

pytestmark = pytest.mark.versions

METADATA = {
    "kind": "segmenter",
    "model": {"name": "deeplabv3plus", "backbone": "resnet18", "output_stride": 16, "options": {}, "num_classes": 3},
    "labels": {
        "names": ["Hintergrund", "Straße", "木"],
        "background": 0,
        "ignore_index": 255,
        "palette": [[0, 0, 0]] * 3,
    },
    "preprocessing": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": None},
    "recipe": {"train": {"lr": 1e-4}},
    "maskwright": "0",
}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_one_file_holds_weights_and_metadata(tmp_path):
    path = tmp_path / "run" / "model.safetensors"
    saved = model().to(memory_format=torch.channels_last)
    save_model(path, saved, METADATA)
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
    assert load_metadata(path) == METADATA
    torch.testing.assert_close(load_weights(path), dict(saved.state_dict()), rtol=0, atol=0)


def test_shared_weights_are_saved_for_each_name(tmp_path):
    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    save_model(tmp_path / "a.safetensors", shared, METADATA)
    weights = load_weights(tmp_path / "a.safetensors")
    assert torch.equal(weights["0.weight"], weights["1.weight"])


def test_hash_follows_weights_not_metadata(tmp_path):
    same, other = model(), model()
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1e-3
    save_model(tmp_path / "a.safetensors", same, METADATA)
    save_model(tmp_path / "b.safetensors", same, {**METADATA, "maskwright": "1"})
    save_model(tmp_path / "c.safetensors", other, METADATA)
    first, second, third = (weights_hash(tmp_path / f"{name}.safetensors") for name in "abc")
    assert first == second != third
    assert len(first) == 16


def test_foreign_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.safetensors does not exist"):
        load_metadata(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors, but long enough to have a header")
    for read in (load_metadata, load_weights, weights_hash):
        with pytest.raises(DataError, match=r"text\.safetensors is not a maskwright model"):
            read(tmp_path / "text.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(DataError, match=r"plain\.safetensors is not a maskwright model"):
        load_metadata(tmp_path / "plain.safetensors")


def test_other_model_is_refused_by_name_and_shape(tmp_path):
    weights = model().state_dict()
    wider = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 5, 1))
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    with pytest.raises(
        DataError, match=r"x\.pt was made with another model: 2\.weight is \(2, 4, 1, 1\).*\(5, 4, 1, 1\)"
    ):
        load_into(wider, weights, "x.pt")
    with pytest.raises(DataError, match=r"3\.bias is missing"):
        load_into(wider, weights, "x.pt")
    with pytest.raises(DataError, match="surplus is not in the model"):
        load_into(model(), {**weights, "surplus": torch.zeros(1)}, "x.pt")
    torch.testing.assert_close(dict(wider.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    network = model()
    with torch.no_grad():
        network[2].bias[1] = value
    save_model(tmp_path / "model.safetensors", network, METADATA)
    with pytest.raises(DataError, match=r"model\.safetensors cannot be used: 2\.bias is not finite"):
        load_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_flipped_bit_of_a_stage_s_model_is_noticed(tmp_path, place):
    path = tmp_path / "segmenter" / "model.safetensors"
    save_model(path, model(), METADATA)
    record = path.with_name("stage.json")
    for fields in ({}, {"model_hash": file_hash(path)}):  # older runs have no hash
        write_json(record, fields)
        assert load_metadata(path) == METADATA
    flip(path, place)
    for reader in (load_metadata, weights_hash, lambda path: _read(None, path)):
        with pytest.raises(
            DataError, match=r"segmenter/model\.safetensors is not the file.*delete .*segmenter and run"
        ):
            reader(path)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 4
    path.write_bytes(data)
