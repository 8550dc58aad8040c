"""Class activation maps of one image: views, maps per scale, both products, the seed mask; four class weights."""

from types import SimpleNamespace

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn import functional as F

from maskwright.data.augment import IMAGENET_MEAN, IMAGENET_STD
from maskwright.weak.labels import seed_labels
from maskwright.weak.seeds.cam import accumulate, class_maps, merge_flip, normalise_maps
from maskwright.weak.seeds.extract import extract_maps, make_views

CLOSE = {"rtol": 0, "atol": 1e-5}


def check(arrays: dict[str, np.ndarray]) -> None:
    tensors = {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}

    def features(images: torch.Tensor) -> torch.Tensor:
        hidden = F.conv2d(images, tensors["conv1_weight"], tensors["conv1_bias"], stride=4, padding=1).relu()
        return F.conv2d(hidden, tensors["conv2_weight"], tensors["conv2_bias"], stride=4, padding=1).relu()

    first, second = tensors["classifier_weight"], tensors["w2"]
    weights = {"w1": first, "w2": second, "sum": first + second, "product": first * second}
    network = SimpleNamespace(features=features, classifier=SimpleNamespace(weight=nn.Parameter(first)))

    image, scales = arrays["image_u8"], arrays["scales"].tolist()
    size = image.shape[:2]
    tags = np.flatnonzero(arrays["label"] == 1).tolist()
    views = make_views([image], [tags], mean=IMAGENET_MEAN, std=IMAGENET_STD, scales=scales)
    for index, view in enumerate(views.images):
        assert_allclose(view, arrays[f"input_scale{index}"], **CLOSE)

    for option, weight in weights.items():
        merged = []
        for index in range(len(scales)):
            # From the stored view, so that a wrong one is seen here too.
            scores = class_maps(features(tensors[f"input_scale{index}"]), weight).relu()
            maps = merge_flip(scores)[0]
            assert_allclose(maps, arrays[f"{option}_map_scale{index}"], **CLOSE)
            merged.append(maps)
        # All classes are resized here and only then chosen; the product drops the others first.
        every = [normalise_maps(maps)[tags] for maps in accumulate(merged, size)]
        found = extract_maps(
            network,
            image,
            tags,
            scales=scales,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            **({} if option == "w1" else {"weight": weight}),
        )
        keys = arrays[f"{option}_keys"]
        assert_array_equal(found.keys, keys)
        for ours, all_classes, name in ((found.cam, every[0], "cam_stride4"), (found.high_res, every[1], "cam_full")):
            assert_allclose(ours, arrays[f"{option}_{name}"], **CLOSE)
            assert_allclose(all_classes, arrays[f"{option}_{name}"], **CLOSE)
        check_mask(found.high_res.numpy(), keys, float(arrays["bg_threshold"]), arrays[f"{option}_pred"])


def check_mask(maps: np.ndarray, keys: np.ndarray, threshold: float, expected: np.ndarray) -> None:
    foreground = range(1, int(keys.max(initial=0)) + 2)
    found = seed_labels(maps, keys, threshold, 0, foreground)
    planes = np.sort(np.concatenate([np.full((1, *maps.shape[1:]), threshold), maps]), axis=0)
    clear = planes[-1] - planes[-2] >= 1e-5
    assert_array_equal(found[clear], expected[clear])
