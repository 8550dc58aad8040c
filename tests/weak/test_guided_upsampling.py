"""Joint bilateral upsampling by 2, compiled and by torch."""

import pytest
import torch

from maskwright.crf.guided_upsampling import guided_upsample

MODULE = "maskwright.crf.guided_upsampling"


def example(height, width, classes=3, batch=2):
    generator = torch.Generator().manual_seed(height + width)
    images = torch.randint(0, 256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)
    images[:, :, ::3] //= 20  # so that some neighbours have near colours
    guide = images[:, ::2, ::2].contiguous()
    return torch.randn(batch, classes, *guide.shape[1:3], generator=generator), guide, images


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (6, 8), (7, 9), (70, 33), (130, 64)])
@pytest.mark.parametrize("classes", [1, 5])
def test_forms_agree_with_double_precision(form, size, classes):
    maps, guide, images = example(*size, classes)
    expected = guided_upsample(maps.double(), guide, images)
    found = guided_upsample(maps, guide, images)
    assert found.shape == (2, classes, *size)
    torch.testing.assert_close(found.double(), expected, atol=3e-5, rtol=0)


def test_one_colour_is_bilinear(form):
    maps, _, _ = example(8, 10)
    grey = torch.full((2, 8, 10, 3), 90, dtype=torch.uint8)
    expected = torch.nn.functional.interpolate(maps, (8, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(guided_upsample(maps, grey[:, ::2, ::2], grey), expected, atol=1e-6, rtol=1e-5)


def test_values_do_not_cross_an_edge(form):
    images = torch.zeros(1, 8, 12, 3, dtype=torch.uint8)
    images[:, :, 5:] = 200
    guide = images[:, ::2, ::2]
    maps = (guide[None, ..., 0] > 0).float()
    expected = (images[0, ..., 0] > 0).float()
    torch.testing.assert_close(guided_upsample(maps, guide, images)[0, 0], expected, atol=1e-5, rtol=0)


def test_threads_and_memory_order_do_not_matter(form):
    maps, guide, images = example(201, 20)
    expected = guided_upsample(maps, guide, images)
    torch.set_num_threads(2)
    assert torch.equal(guided_upsample(maps, guide, images), expected)
    turned = maps.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(guided_upsample(turned, guide, images), expected)
