"""The network calculated with channels padded to multiples of eight, as tensor cores want them: 30 maps as 32.

The function is the same: what is added is zero and stays zero. Parameters keep their shapes, so weights and checkpoints
know nothing of it. A step of 48 ms on an H200 in bfloat16 took 32 ms so (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_box.network.unet import InstanceNorm, UNet, instance_norm

MULTIPLE = 8


def can_be_padded(network: UNet) -> bool:
    """Whether every norm is one that leaves a channel of zeros at zero without keeping statistics of it."""
    stages = [*network.encoder, *network.decoder]
    return all(isinstance(norm, InstanceNorm) for stage in stages for _, norm, _ in _blocks(stage))


def padded_at_every_resolution(network: UNet, image: Tensor) -> list[Tensor]:
    """What ``network.at_every_resolution`` gives, to rounding."""
    segments = [image.shape[1]]
    skips = []
    for stage in network.encoder:
        image = _stage(stage, image, segments)
        segments = [_width(stage)]
        skips.append((image, segments[0]))
    skips.pop()
    decoded = [image]
    for up, stage in zip(network.upsampling, network.decoder, strict=True):
        skip, width = skips.pop()
        joined = torch.cat([_up(up, image), skip], dim=1)
        image = _stage(stage, joined, [_raised(up), width])
        decoded.append(image)
    heads = [network.head, *network.side_heads]
    return [_head(head, features) for head, features in zip(heads, decoded[::-1], strict=False)]


def _blocks(stage: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
    """Convolution, norm and activation of each of a stage's blocks."""
    assert isinstance(stage, nn.Sequential)
    for block in stage:
        assert isinstance(block, nn.Sequential)
        yield block[0], block[1], block[2]


def _width(stage: nn.Module) -> int:
    """Channels that a stage gives, without padding."""
    *_, (convolution, _, _) = _blocks(stage)
    return int(convolution.out_channels)


def _raised(up: Any) -> int:
    """Channels that a transposed convolution gives, without padding."""
    return int(up.weight.shape[1])


def _stage(stage: nn.Module, image: Tensor, segments: Sequence[int]) -> Tensor:
    """A stage of an image joined of tensors that have, without padding, ``segments`` channels."""
    for convolution, norm, activation in _blocks(stage):
        weight = _to_multiple(_inputs(convolution.weight, segments, image.shape[1]), 0)
        convolve = functional.conv2d if weight.ndim == 4 else functional.conv3d
        bias = _to_multiple(convolution.bias, 0)
        image = convolve(image, weight, bias, convolution.stride, convolution.padding)
        image = activation(instance_norm(image, _to_multiple(norm.weight, 0), _to_multiple(norm.bias, 0), norm.eps))
        segments = [convolution.out_channels]
    return image


def _up(up: Any, image: Tensor) -> Tensor:
    weight = _to_multiple(_to_multiple(up.weight, 0), 1)
    raise_ = functional.conv_transpose2d if weight.ndim == 4 else functional.conv_transpose3d
    bias = None if up.bias is None else _to_multiple(up.bias, 0)
    return raise_(image, weight, bias, up.stride)


def _head(head: Any, image: Tensor) -> Tensor:
    convolve = functional.conv2d if image.ndim == 4 else functional.conv3d
    return convolve(image, _to_multiple(head.weight, 1), head.bias)


def _inputs(weight: Tensor, segments: Sequence[int], channels: int) -> Tensor:
    """A kernel's input channels, each segment padded; the image's own are as they are."""
    if sum(segments) == channels:
        return weight
    ends = list(accumulate(segments))
    parts = [weight[:, end - width : end] for end, width in zip(ends, segments, strict=True)]
    return torch.cat([_to_multiple(part, 1) for part in parts], dim=1)


def _to_multiple(tensor: Tensor, axis: int) -> Tensor:
    missing = -tensor.shape[axis] % MULTIPLE
    if not missing:
        return tensor
    return functional.pad(tensor, [0, 0] * (tensor.ndim - 1 - axis) + [0, missing])
