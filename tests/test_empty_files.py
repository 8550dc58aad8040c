"""An empty or cut-off file of arrays, as a power cut leaves it, is refused with its path and what to do."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from PIL import Image

from maskwright.data.class_uniform import load_index
from maskwright.errors import DataError
from maskwright.files import read_arrays
from maskwright.models.dupsampling_fit import LabelBasis
from maskwright.report.gallery import read_maps, stored_mask
from maskwright.weak.refine.instances import load_instances
from maskwright.weak.refine.irn import load_edges
from maskwright.weak.seed_evaluation import map_stages
from maskwright.weak.seeds.extract import load_maps


@pytest.mark.parametrize("left", [0, 60])
@pytest.mark.parametrize(
    "read",
    [
        lambda path: load_maps(path.parent, path.stem),
        lambda path: load_edges(path.parent, path.stem),
        lambda path: load_instances(path.parent, path.stem),
        lambda path: map_stages(path.parents[2]),
        lambda path: read_maps(path.parent, path.stem),
        load_index,
        LabelBasis.load,
    ],
)
def test_a_file_that_ends_too_early_is_refused_by_its_name(tmp_path, read, left):
    path = tmp_path / "irn" / "maps" / "image.npz"
    path.parent.mkdir(parents=True)
    (path.parents[1] / "stage.json").write_text('{"finished": true, "needs": []}')
    np.savez(path, keys=np.arange(3))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DataError, match=r"image\.npz"):
        read(path)


@pytest.mark.parametrize("places", [(0,), (30,), (60,), (90, 91), (-30,), (-1,)])
def test_flipped_bytes_are_refused_or_change_nothing(tmp_path, places):
    path, keys = tmp_path / "a.npz", np.arange(60)
    np.savez_compressed(path, keys=keys)
    held = bytearray(path.read_bytes())
    for place in places:
        held[place] ^= 0xFF
    path.write_bytes(held)
    said = ""
    try:
        np.testing.assert_array_equal(read_arrays(path, ("keys",))["keys"], keys)
    except DataError as error:
        said = str(error)
    assert not said or "a.npz must hold the arrays keys" in said


def test_what_the_system_cannot_open_now_is_not_called_damaged(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files", "a.npz")

    monkeypatch.setattr(np, "load", full)
    with pytest.raises(OSError, match="Too many open files"):
        read_arrays(tmp_path / "a.npz")


def test_a_damaged_mask_of_a_run_is_to_be_deleted_and_one_of_a_person_to_be_replaced(tmp_path):
    path = tmp_path / "pseudo_masks" / "SegmentationClass" / "a.png"
    path.parent.mkdir(parents=True)
    Image.new("L", (40, 40)).save(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"a\.png.*replace the file"):
        stored_mask(path.parent, "a")
    (tmp_path / "pseudo_masks" / "provenance.json").write_text('{"format": "maskwright pseudo-masks 1"}')
    with pytest.raises(DataError, match=r"a\.png.*delete it and give the command that made it again"):
        stored_mask(path.parent, "a")
