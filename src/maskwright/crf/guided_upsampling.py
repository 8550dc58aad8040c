"""Joint bilateral upsampling by 2 (Kopf et al., SIGGRAPH 2007): coarse maps brought to the edges of an image."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from maskwright.cpu.threads import in_parts

LEAK = 1e-6  # where no cell's colour fits, bilinear
ROWS_PER_THREAD = 64


def guided_upsample(maps: Tensor, guide: Tensor, images: Tensor, sigma: float = 6.0) -> Tensor:
    """Means of the four nearest cells, bilinear weights times exp(-distance in colour^2 / 2).

    Args:
        maps: `(B, C, h, w)`, h = ceil(H / 2), w = ceil(W / 2).
        guide: `(B, h, w, 3)` uint8, the colour of each cell.
        images: `(B, H, W, 3)` uint8.
        sigma: standard deviation in grey levels.

    Returns:
        `(B, C, H, W)`.
    """
    if maps.device.type == "cpu" and maps.dtype == torch.float32 and find_spec("numba") is not None:
        return _compiled(maps, guide, images, sigma)
    return _by_torch(maps, guide, images, sigma)


def _compiled(maps: Tensor, guide: Tensor, images: Tensor, sigma: float) -> Tensor:
    from maskwright.crf.guided_upsampling_cpu import upsample

    result = maps.new_empty(*maps.shape[:2], *images.shape[1:3])
    for given in zip(maps, guide, images, result):
        cells, colours, image, out = (tensor.contiguous().numpy() for tensor in given)
        in_parts(partial(upsample, cells, colours, image, sigma, LEAK, out), len(image), ROWS_PER_THREAD)
    return result


def _by_torch(maps: Tensor, guide: Tensor, images: Tensor, sigma: float) -> Tensor:
    batch, height, width, _ = images.shape
    h, w = guide.shape[1:3]
    device = maps.device
    rows, columns = ((torch.arange(length, device=device, dtype=maps.dtype) - 0.5) / 2 for length in (height, width))
    fine, cells = (colours.permute(0, 3, 1, 2).to(maps.dtype) / sigma for colours in (images, guide))
    first = torch.arange(batch, device=device)[:, None, None] * (h * w)
    places, weights = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = rows.floor() + dy, columns.floor() + dx
            share = (1 - (rows - y).abs())[:, None] * (1 - (columns - x).abs())
            y, x = y.long().clamp_(0, h - 1), x.long().clamp_(0, w - 1)
            near = cells.index_select(2, y).index_select(3, x).sub_(fine).square_().sum(1)
            weights.append(near.mul_(-0.5).exp_().add_(LEAK).mul_(share))
            places.append((first + y[:, None] * w + x).int())
    weight = torch.stack(weights, -1).flatten(0, 2)
    weight /= weight.sum(1, keepdim=True)
    table = maps.flatten(2).transpose(1, 2).flatten(0, 1).contiguous()
    result = F.embedding_bag(torch.stack(places, -1).flatten(0, 2), table, mode="sum", per_sample_weights=weight)
    return result.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
