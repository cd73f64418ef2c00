"""Instance norm on a CPU: as exact as float32 numbers are, however large the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 20
"""Numbers whose products are in memory at once: they stay in the processor's cache."""


def accurate_norm(image: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(B, C, [Z,] Y, X) float32, each channel of each sample to mean 0 and deviation 1, times ``weight`` (C,) plus
    ``bias`` (C,), in the memory format it came in. ``eps`` is added to the variance.

    torch's sums over axes are exact to a few units in the last place; those inside its GroupNorm are not on
    channels-last memory (torch 2.13, ``tests/network/test_accurate_norm.py``).
    """
    result: Tensor = _AccurateNorm.apply(image, weight, bias, eps)  # type: ignore[no-untyped-call]
    return result


def _axes(image: Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.ndim))


def _mean_product(one: Tensor, other: Tensor, centre: Tensor) -> Tensor:
    """Mean of (``one`` - ``centre``) * (``other``, or that same difference where it is the same image) over an image's
    voxels, (B, C, 1, ...), in float64.
    """
    total = torch.zeros_like(centre, dtype=torch.float64)
    lines = max(1, BLOCK * one.shape[2] // one.numel())
    for part, factor in zip(torch.split(one, lines, 2), torch.split(other, lines, 2), strict=True):
        difference = part - centre
        total += difference.mul_(difference if one is other else factor).sum(_axes(one), keepdim=True)
    return total / one[0, 0].numel()


class _AccurateNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean = image.mean(_axes(image), keepdim=True)
        slope = torch.rsqrt(_mean_product(image, image, mean) + eps).to(image.dtype)
        ctx.save_for_backward(image, mean, slope, weight)
        scale = slope * weight.reshape(1, -1, *mean.shape[2:])
        return torch.addcmul(bias.reshape(1, -1, *mean.shape[2:]) - mean * scale, image, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        image, mean, slope, weight = ctx.saved_tensors
        voxels = image[0, 0].numel()
        # What the mean and the deviation of a channel have from all of its voxels' derivatives.
        of_mean = gradient.mean(_axes(image), keepdim=True)
        of_slope = (_mean_product(image, gradient, mean) * slope).to(image.dtype)
        scale = slope * weight.reshape(1, -1, *mean.shape[2:])
        by_image = -scale * slope * of_slope
        result = torch.addcmul(-scale * of_mean - by_image * mean, gradient, scale).addcmul_(image, by_image)
        return result, (of_slope * voxels).sum(0).flatten(), (of_mean * voxels).sum(0).flatten(), None
