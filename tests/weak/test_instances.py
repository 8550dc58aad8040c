"""Instances from displacements: centroids, regions, masks, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwright.errors import DataError
from maskwright.weak.refine.instances import (
    cluster_centroids,
    connected_regions,
    find_centroids,
    instance_masks,
    load_instances,
    write_instances,
)
from maskwright.weak.refine.irn_settings import IRNSettings

SHAPE = (20, 32)
CENTRES = ((9.0, 7.0), (10.0, 24.0))


def field():
    """Displacements of two objects, left and right, a fifth of the way to the nearer centre."""
    y, x = torch.meshgrid(torch.arange(SHAPE[0]).float(), torch.arange(SHAPE[1]).float(), indexing="ij")
    right = x >= SHAPE[1] / 2
    ways = [torch.where(right, CENTRES[1][axis], CENTRES[0][axis]) - place for axis, place in enumerate((y, x))]
    return torch.stack(ways) / 2, right


def test_places_arrive_at_centroids():
    displacements, right = field()
    places = find_centroids(displacements, 100)
    for axis in range(2):
        expected = torch.where(right, CENTRES[1][axis], CENTRES[0][axis])
        torch.testing.assert_close(places[axis], expected, atol=1e-2, rtol=0)
    assert (find_centroids(torch.full((2, 5, 6), 9.0), 3) == torch.tensor([4.0, 5.0])[:, None, None]).all()
    assert find_centroids(torch.ones(2, 1, 1), 3).flatten().tolist() == [0, 0]


def test_clusters():
    displacements, right = field()
    groups = cluster_centroids(find_centroids(displacements), displacements)
    assert set(groups.ravel()) == {0, 1}
    assert (groups == right.numpy()).all()


@pytest.mark.parametrize("density", [0.0, 0.4, 0.6, 1.0])
def test_connected_regions(density):
    mask = np.random.default_rng(0).random((17, 23)) < density
    found = connected_regions(mask)
    assert ((found > 0) == mask).all()
    expected = np.zeros(mask.shape, int)
    count = 0
    for start in zip(*np.nonzero(mask)):
        if expected[start]:
            continue
        count += 1
        waiting = [start]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < 17 and 0 <= x < 23 and mask[y, x] and not expected[y, x]:
                expected[y, x] = count
                waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    np.testing.assert_array_equal(found, expected)


def scene():
    displacements, _ = field()
    cam, edges = torch.zeros(2, *SHAPE), torch.zeros(SHAPE)
    cam[0, 4:15, 3:12] = 1  # one on the left, of class 5
    cam[0, 5:16, 20:29] = 0.9  # one of the same class on the right
    edges[:, 15:17] = 1
    for top, bottom, left, end in ((4, 15, 3, 12), (5, 16, 20, 29)):
        edges[[top - 1, bottom], left - 1 : end + 1] = 1
        edges[top - 1 : bottom + 1, [left - 1, end]] = 1
    return cam, edges, displacements


def test_one_class_in_two_instances():
    cam, edges, displacements = scene()
    size = (4 * SHAPE[0] - 1, 4 * SHAPE[1] - 3)
    found = instance_masks(cam, np.array([5, 2]), edges, displacements, size, steps=64)
    assert found.classes.tolist() == [5, 5]
    assert found.masks.shape == (2, *size)
    assert found.scores[0] == pytest.approx(1, abs=1e-5)
    assert found.scores[1] == pytest.approx(0.9, abs=0.02)
    assert not (found.masks[0] & found.masks[1]).any()
    assert found.masks[0, :, : size[1] // 2].sum() == found.masks[0].sum() > 0
    assert found.masks[1, :, size[1] // 2 :].sum() == found.masks[1].sum() > 0
    assert found.masks[0, 20:56, 16:44].all()


def test_fragments_score_nothing_and_nothing_gives_nothing():
    cam, edges, displacements = scene()
    size = (4 * SHAPE[0], 4 * SHAPE[1])
    found = instance_masks(cam, np.array([5, 2]), edges, displacements, size, steps=8, smallest=0.9)
    assert len(found.scores) == 2
    assert (found.scores == 0).all()
    for empty in (cam * 0, cam[:0]):
        none = instance_masks(empty, np.array([5, 2])[: len(empty)], edges, displacements, size, steps=8)
        assert none.masks.shape == (0, *size)
        assert len(none.classes) == len(none.scores) == 0


def test_folder(memory_set, tmp_path):
    size = (4 * SHAPE[0], 4 * SHAPE[1] - 2)
    dataset = memory_set(sizes=(size,) * 3, tags=[(1, 3), (), None])
    cam, edges, displacements = scene()
    for kind, arrays in (
        ("seeds", {"keys": np.array([0, 2]), "cam": cam.half().numpy()}),
        ("edges", {"edge": edges.numpy(), "displacement": displacements.numpy()}),
    ):
        path = tmp_path / kind / f"{dataset.names[0]}.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, **arrays)
    arguments = dataset, tmp_path / "seeds", tmp_path / "edges", IRNSettings(exp_times=4), tmp_path / "instances"
    write_instances(*arguments)
    found = load_instances(tmp_path / "instances", dataset.names[0])
    expected = instance_masks(cam, np.array([1, 3]), edges, displacements, size, steps=16)
    np.testing.assert_array_equal(found.masks, expected.masks)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    assert found.classes.tolist() == [1, 1]
    assert len(list((tmp_path / "instances").rglob("*.npz"))) == 1
    written = next((tmp_path / "instances").rglob("*.npz")).stat().st_mtime_ns
    write_instances(*arguments)
    assert next((tmp_path / "instances").rglob("*.npz")).stat().st_mtime_ns == written
    with pytest.raises(DataError, match="other threshold"):
        write_instances(*arguments, threshold=0.3)
    with pytest.raises(DataError, match="other walk"):
        write_instances(*arguments[:3], IRNSettings(exp_times=5), arguments[4])
    with pytest.raises(DataError, match="does not exist"):
        load_instances(tmp_path / "instances", dataset.names[1])
