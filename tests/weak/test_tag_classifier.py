from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwright.data import subset
from maskwright.data.sample import LabelSpace
from maskwright.data.scenes import scenes
from maskwright.errors import DataError
from maskwright.models.classifier import load_classifier
from maskwright.recipe.load import build_recipe
from maskwright.weak.networks.classifier import average_precision, tag_average_precision, train_classifier

pytestmark = pytest.mark.versions


def test_average_precision_by_hand():
    truth = np.array([1, 0, 1, 0])
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), truth) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([0.9, 0.1, 0.8, 0.2]), truth) == 1.0
    assert average_precision(np.array([0.1, 0.9, 0.2, 0.8]), truth) == pytest.approx((1 / 3 + 2 / 4) / 2)


class Untagged:
    """A data set of which nobody said what it shows."""

    def __init__(self, dataset):
        self.dataset, self.labels, self.names, self.source = dataset, dataset.labels, dataset.names, dataset.source

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]

    def tags(self, index):
        return None

    def has_mask(self, index):
        return False


def recipe():
    train = {"steps": 2, "batch_size": 4, "lr": 0.01, "workers": 0, "augment": {"crop": [64, 64]}}
    return build_recipe({"classifier": {"backbone": "resnet10t", "train": train}, "data": {"root": "scenes"}})


def test_training_leaves_a_classifier_that_loads(tmp_path):
    data = scenes("train", count=8, size=(64, 64))
    train_classifier(r := recipe(), r.classifier, None, data, data, tmp_path, torch.device("cpu"))
    network = load_classifier(tmp_path / "model.safetensors")
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, len(data.labels.foreground))
    log = [line for line in (tmp_path / "log.jsonl").read_text().splitlines() if '"validate"' in line]
    assert "tag_map" in log[-1]


def test_training_opens_no_mask(memory_set, tmp_path):
    data = memory_set(LabelSpace(("background", "cat", "dog")), sizes=((64, 64),) * 8)
    train_classifier(r := recipe(), r.classifier, None, data, data, tmp_path, torch.device("cpu"))
    assert set(data.opened) == set(range(8))
    assert data.masks_opened == []


def test_no_tags_is_said_before_training(tmp_path):
    data = Untagged(scenes("train", count=4, size=(64, 64)))
    with pytest.raises(DataError, match="give tags="):
        train_classifier(r := recipe(), r.classifier, None, data, data, tmp_path, torch.device("cpu"))
    assert not (tmp_path / "log.jsonl").exists()


def test_tag_average_precision_of_a_perfect_network():
    data = scenes("val", count=12, size=(64, 64))
    truth = {data[i].image.tobytes(): data.labels.tag_vector(data.tags(i)) for i in range(len(data))}

    class Oracle(torch.nn.Module):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

        def forward(self, images):
            image = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
            return torch.from_numpy(truth[np.ascontiguousarray(image).tobytes()])[None]

    assert tag_average_precision(Oracle(), data, None, torch.device("cpu")) == pytest.approx(1.0)
    untagged = [i for i in range(len(data)) if not data.tags(i)]
    if untagged:
        assert tag_average_precision(Oracle(), subset(data, untagged), None, torch.device("cpu")) is None
