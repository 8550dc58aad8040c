from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from maskwright.engine.device import freed_memory_kept, prefers_channels_last
from maskwright.models import create_classifier, create_model

BLOCK = 2**24  # numbers: 64 MB, more than malloc keeps by itself
BYTES = 4 * BLOCK
HAS_MALLOPT = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


def pages_fetched(steps: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.ones(BLOCK)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def held() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not HAS_MALLOPT, reason="glibc's allocator")
def test_freed_memory_stays_inside_the_block_and_goes_back_after_it():
    torch.set_num_threads(1)
    before = held()
    with freed_memory_kept("cpu"):
        pages_fetched(30)  # the first blocks lie between small ones and cannot be joined
        assert pages_fetched(5) < BYTES / resource.getpagesize()
        assert held() > before + BYTES / 2
    assert held() < before + BYTES / 2


@pytest.mark.skipif(not HAS_MALLOPT, reason="glibc's allocator")
def test_a_block_inside_another_does_not_end_it():
    torch.set_num_threads(1)
    with freed_memory_kept("cpu"):
        with freed_memory_kept("cpu"):
            pages_fetched(30)
        assert pages_fetched(5) < BYTES / resource.getpagesize()
    assert pages_fetched(5) > BYTES / resource.getpagesize()


def test_other_devices_are_left_alone():
    with freed_memory_kept("cuda"):
        assert torch.ones(3).sum() == 3


@pytest.mark.parametrize(
    ("backbone", "convolutions"),
    [
        ("resnet10t", True),
        ("tf_efficientnet_lite0", True),
        ("hrnet_w18_small", True),
        ("vit_tiny_patch16_224", False),
        ("swin_tiny_patch4_window7_224", False),
    ],
)
def test_channels_last_is_for_convolutions_on_a_cpu(backbone, convolutions):
    with torch.device("meta"):
        network = create_classifier(backbone=backbone, num_tags=2, output_stride=None)
    assert prefers_channels_last(network, "cpu") == convolutions
    assert not prefers_channels_last(network, "cuda")
    assert not prefers_channels_last(torch.nn.Linear(2, 2), "cpu")


@pytest.mark.parametrize("name", ["ocrnet", "hmsa", "light"])
def test_attention_made_of_convolutions_is_no_attention_to_tokens(name):
    with torch.device("meta"):
        network = create_model(name, backbone="resnet10t", num_classes=2)
    assert prefers_channels_last(network, "cpu")
