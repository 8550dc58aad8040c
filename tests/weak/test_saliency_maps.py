"""Refinements that look at one image at a time: saliency that overrules maps, and what they share with the CRF."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwright.data.sample import Sample
from maskwright.errors import DataError, RecipeError
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import build_recipe
from maskwright.runs.context import RunContext
from maskwright.weak.refine.crf_maps import CRFSettings, crf_folder, crf_maps
from maskwright.weak.refine.saliency_maps import SaliencySettings, background_score, overruled_maps, saliency_folder
from maskwright.weak.seeds.extract import load_maps

SIZES = [(24, 40), (24, 40), (16, 20), (24, 40)]


def labels_of(maps, background):
    return torch.cat([background, maps], 1).argmax(1)


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.6])
def test_the_same_masks_as_with_the_background_of_the_saliency(threshold):
    torch.manual_seed(0)
    maps, saliency = torch.rand(2, 3, 30, 40), torch.rand(2, 1, 30, 40)
    maps[:, :, :3] = 0
    maps[:, 0, 3:6] = 1
    saliency[..., 4:] = saliency[..., 4:].round()
    for settings in (
        {},
        {"mode": "hard"},
        {"mode": "hard", "salient": 0.0, "elsewhere": 1.0},
        {"mode": "hard", "threshold": 0.0, "salient": 0.5},
    ):
        background = background_score(saliency, **settings)
        found = overruled_maps(maps, background, threshold)
        assert (found >= 0).all()
        assert (found <= 1).all()
        expected = labels_of(maps, background)
        assert torch.equal(labels_of(found, torch.full_like(background, threshold)), expected)
        assert 0.05 < (expected > 0).float().mean() < 0.99


def test_scores_of_the_background():
    saliency = torch.tensor([0.0, 0.4, 0.5, 1.0])
    torch.testing.assert_close(background_score(saliency), torch.tensor([1.0, 0.6, 0.5, 0.0]))
    hard = background_score(saliency, mode="hard", salient=0.1, elsewhere=0.8)
    torch.testing.assert_close(hard, torch.tensor([0.8, 0.8, 0.1, 0.1]))


def test_edams_algorithm():
    """Its table, with alpha 0.2, beta 0.8: salient and very low, not salient and very high, otherwise P * S."""
    maps = torch.tensor([[0.1, 0.5, 0.9, 0.5], [0.05, 0.1, 0.1, 0.2]])[None, :, None]
    saliency = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    background = background_score(saliency, mode="hard", salient=0.2, elsewhere=0.8)
    assert labels_of(maps, background).flatten().tolist() == [0, 1, 1, 0]


@pytest.fixture
def salient_set(memory_set):
    class Salient(memory_set):
        def get(self, index, with_mask=True):
            sample = super().get(index, with_mask)
            saliency = np.random.default_rng(index).integers(0, 256, self.size(index), dtype=np.uint8)
            return Sample(sample.name, sample.image, sample.mask, sample.tags, saliency)

    return Salient(sizes=SIZES, tags=[(1, 3), (), (2,), None])


def test_a_folder_of_maps_becomes_another(salient_set, save_all, tmp_path):
    save_all(salient_set, tmp_path / "maps")
    settings = SaliencySettings()
    saliency_folder(salient_set, tmp_path / "maps", settings, tmp_path / "out", threshold=0.25)
    for index, name in enumerate(salient_set.names[:3]):
        keys, before = load_maps(tmp_path / "maps", name)
        found_keys, found = load_maps(tmp_path / "out", name)
        np.testing.assert_array_equal(found_keys, keys)
        saliency = torch.from_numpy(salient_set[index].saliency / np.float32(255))[None, None]
        expected = overruled_maps(torch.from_numpy(before)[None], 1 - saliency, 0.25)[0]
        np.testing.assert_allclose(found, expected, atol=1e-3)
        with np.load(tmp_path / "out" / f"{name}.npz") as arrays:
            assert arrays["cam"].shape == (len(keys), SIZES[index][0] // 4, SIZES[index][1] // 4)
            assert found.dtype == np.float16
    assert not (tmp_path / "out" / f"{salient_set.names[3]}.npz").exists(), "nobody said what it shows"
    path = tmp_path / "out" / f"{salient_set.names[2]}.npz"
    path.unlink()
    salient_set.opened.clear()
    saliency_folder(salient_set, tmp_path / "maps", settings, tmp_path / "out", threshold=0.25)
    assert path.is_file()
    assert set(salient_set.opened) <= {0, 2}, "only what is missing, and the first to see whether there is any saliency"
    with pytest.raises(DataError, match="other saliency"):
        saliency_folder(salient_set, tmp_path / "maps", settings, tmp_path / "out", threshold=0.3)


def test_sets_without_saliency_are_refused(memory_set, save_all, tmp_path):
    plain = memory_set(sizes=SIZES)
    save_all(plain, tmp_path / "maps")
    with pytest.raises(RecipeError, match=r"refine=\[saliency_background\] needs saliency maps"):
        saliency_folder(plain, tmp_path / "maps", SaliencySettings(), tmp_path / "out", threshold=0.25)


def test_the_crf_of_a_folder_is_that_of_its_images(memory_set, save_all, tmp_path):
    dataset = memory_set(sizes=SIZES, tags=[(1, 3), (), (2,), (1, 2)])
    save_all(dataset, tmp_path / "maps")
    settings = CRFSettings(mode="exact")
    crf_folder(dataset, tmp_path / "maps", settings, tmp_path / "out", "cpu", background=0.3)
    for index, name in enumerate(dataset.names):
        keys, before = load_maps(tmp_path / "maps", name)
        _, found = load_maps(tmp_path / "out", name)
        assert found.shape == before.shape
        if len(keys):
            image = torch.from_numpy(dataset.images[index])[None]
            expected = crf_maps(image, torch.from_numpy(before)[None], background=0.3, mode="exact", scale="image")[0]
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_stage_is_a_word_in_the_recipe(tmp_path):
    fields = {"supervision": "tags", "data": {"root": "scenes", "options": {"count": 2, "size": [64, 64]}}}
    fields |= {"refine": ["saliency", "crf"], "pseudo_masks": {"threshold": 0.4}, "saliency": {"mode": "hard"}}
    stages = {stage.name: stage for stage in recipe_stages(RunContext(build_recipe(fields), tmp_path, print))}
    assert stages["saliency"].settings["score"] == 0.4
    assert stages["saliency"].settings["mode"] == "hard"
    assert stages["crf"].needs == ("saliency",)
    assert stages["pseudo_masks"].needs == ("crf",)
