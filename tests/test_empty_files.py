"""An empty or cut-off file of arrays, as a power cut leaves it, is refused with its path and what to do."""

from __future__ import annotations

import numpy as np
import pytest

from maskwright.data.class_uniform import load_index
from maskwright.errors import DataError
from maskwright.models.dupsampling_fit import LabelBasis
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
