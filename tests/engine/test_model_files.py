"""A model file whose header was edited or damaged: every field is refused by name, before anything large is made."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import HEADER_KEY, describe, load_metadata, save_model
from maskwright.errors import DataError
from maskwright.files import file_sha256
from maskwright.inference.load import load
from maskwright.models import create_model
from maskwright.models.classifier import load_classifier
from maskwright.settings import Recipe

pytestmark = pytest.mark.versions

BUILT = {"name": "fcn", "backbone": "resnet10t", "output_stride": None, "options": {}, "num_classes": 3}
LABELS = LabelSpace(("background", "cat", "dog"))


@pytest.fixture(scope="module")
def network():
    return create_model("fcn", backbone="resnet10t", num_classes=3)


@pytest.fixture(scope="module")
def described(network):
    return describe("segmenter", BUILT, network, LABELS, Recipe())


def written(path: Path, network: torch.nn.Module, header: str) -> Path:
    save_file(network.state_dict(), path, metadata={HEADER_KEY: header})
    return path


def changed(described: dict, place: str, value: object) -> dict:
    """The description with another value at `a.b.c`; without it where the value is `...`."""
    result = copy.deepcopy(described)
    *way, last = place.split(".")
    inner = result
    for key in way:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return result


def test_what_describe_writes_is_read(network, described, tmp_path):
    path = written(tmp_path / "model.safetensors", network, json.dumps(described))
    assert load_metadata(path) == load_metadata(path, "segmenter") == described
    assert load(path, device="cpu").labels == LABELS


def test_loading_gives_every_weight_and_draws_no_random_number(network, described, tmp_path):
    path = written(tmp_path / "model.safetensors", network, json.dumps(described))
    before = torch.get_rng_state()
    loaded = load(path, device="cpu").model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


def test_a_file_is_hashed_again_when_it_changes(network, described, tmp_path):
    path = written(tmp_path / "model.safetensors", network, json.dumps(described))
    first = file_sha256(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest() != first


@pytest.mark.parametrize("header", ["{", "null", "[]", '"text"', "3", "[" * 100_000])
def test_a_header_that_is_no_dictionary(network, tmp_path, header):
    path = written(tmp_path / "model.safetensors", network, header)
    with pytest.raises(DataError, match=r"model\.safetensors(: everything in its header| is not a maskwright model)"):
        load(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("kind", ..., "no kind"),
        ("kind", ["segmenter"], r"kind in its header is \['segmenter'\], expected one of segmenter, classifier"),
        ("kind", "segmentor", "kind in its header is 'segmentor'"),
        ("kind", "irnet", "holds a irnet, expected a segmenter; a finished run has it in RUN/segmenter"),
        ("model", ..., "no model"),
        ("model", "fcn", "model in its header is 'fcn', expected a dictionary"),
        ("model.name", 3, r"model\.name in its header is 3, expected a name"),
        ("model.name", "fnc", r"no segmenter can be built from `model` in its header: .*'fcn'"),
        ("model.backbone", ..., r"model\.backbone in its header is None, expected a name"),
        ("model.backbone", "resnet", "no segmenter can be built from `model` in its header"),
        ("model.num_classes", -1, r"model\.num_classes in its header is -1, expected 3, as there are labels"),
        ("model.num_classes", 4, r"model\.num_classes in its header is 4, expected 3"),
        ("model.num_classes", "3", r"model\.num_classes in its header is '3'"),
        ("model.num_classes", 10**9, "model: num_classes in its header is 1000000000, expected at most 65536"),
        ("model.options", {"channels": [1e12]}, "model: channels in its header is 1000000000000"),
        ("model.options", {"channels": float("nan")}, "model: channels in its header is nan"),
        ("model.options", {"chanels": 8}, "no segmenter can be built from `model`"),
        ("model.options", [], r"model\.options in its header is \[\], expected a dictionary"),
        ("model.output_stride", 0, r"model\.output_stride in its header is 0"),
        ("model.output_stride", "deep", r"model\.output_stride in its header is 'deep'"),
        ("labels", ..., "no labels"),
        ("labels", None, "labels in its header are no class names"),
        ("labels.names", ..., "labels in its header are no class names and colours: no 'names'"),
        ("labels.names", "abc", r"labels\.names in its header is 'abc', expected a list"),
        ("labels.palette", [[0, 0, "x"]] * 3, "labels in its header are no class names and colours"),
        ("preprocessing", [], r"preprocessing in its header is \[\], expected a dictionary"),
        ("preprocessing.mean", [0.5], r"preprocessing\.mean in its header is \[0\.5\], expected three numbers"),
        ("preprocessing.mean", "grey", r"preprocessing\.mean in its header is 'grey'"),
        ("preprocessing.std", [0.2, 0.2, 0], r"preprocessing\.std .* expected three numbers above 0"),
        ("preprocessing.std", [0.2, 0.2, float("inf")], r"preprocessing\.std"),
        ("recipe", ..., "no recipe"),
        ("recipe", "voc", "recipe in its header is 'voc'"),
        ("recipe.inference", [], r"recipe\.inference in its header is \[\]"),
        ("recipe.inference.scales", [1e6], r"recipe\.inference\.scales\.0 in its header is 1000000\.0: .*16"),
        ("recipe.inference.flip", "perhaps", r"recipe\.inference\.flip in its header is 'perhaps'"),
    ],
)
def test_a_field_that_is_not_what_it_should_be(network, described, tmp_path, place, value, message):
    header = json.dumps(changed(described, place, value))
    path = written(tmp_path / "model.safetensors", network, header)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(error.value).startswith(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes


def test_tags_are_the_labels_without_the_background(network, described, tmp_path):
    made = {"backbone": "resnet10t", "output_stride": 16, "options": {}, "num_tags": 3}
    path = written(
        tmp_path / "model.safetensors", network, json.dumps({**described, "kind": "classifier", "model": made})
    )
    with pytest.raises(DataError, match=r"model\.num_tags in its header is 3, expected 2"):
        load_classifier(path)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_the_umask_s(described, tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save_model(tmp_path / "model.safetensors", torch.nn.Linear(1, 1), described)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == mode
