"""The network calculated with channels padded to multiples of eight, as tensor cores want them: 30 maps as 32.

The function is the same: what is added is zero and stays zero. Parameters keep their shapes, so weights and checkpoints
know nothing of it. Half as fast again on an H200 in bfloat16 (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_box.network.unet import InstanceNorm, UNet, instance_norm

MULTIPLE = 8


def can_be_padded(network: UNet) -> bool:
    """Whether every norm is one that leaves a channel of zeros at zero without keeping statistics of it."""
    return all(isinstance(block[1], InstanceNorm) for stage in _stages(network) for block in stage)


def padded_at_every_resolution(network: UNet, image: Tensor) -> list[Tensor]:
    """What ``network.at_every_resolution`` gives, to rounding."""
    segments = [image.shape[1]]
    skips, widths = [], []
    for stage in network.encoder:
        image, segments = _stage(stage, image, segments)
        skips.append(image)
        widths.append(segments[0])
    skips.pop()
    decoded = [image]
    for up, stage in zip(network.upsampling, network.decoder, strict=True):
        skip = skips.pop()
        width = widths[len(skips)]
        raised = _up(up, image)
        image, _ = _stage(stage, torch.cat([raised, skip], dim=1), [up.out_channels, width])
        decoded.append(image)
    heads = [network.head, *network.side_heads]
    return [_head(head, features) for head, features in zip(heads, decoded[::-1], strict=False)]


def _stages(network: UNet) -> list[nn.Module]:
    return [*network.encoder, *network.decoder]


def _stage(stage: nn.Module, image: Tensor, segments: Sequence[int]) -> tuple[Tensor, list[int]]:
    """A stage's blocks; ``segments``: channels of each of the tensors that ``image`` is joined of, without padding."""
    for convolution, norm, activation in stage:  # type: ignore[attr-defined]
        weight = _outputs(_inputs(convolution.weight, segments, image.shape[1]))
        image = _convolve(convolution, image, weight, _outputs(convolution.bias))
        image = activation(instance_norm(image, _outputs(norm.weight), _outputs(norm.bias), norm.eps))
        segments = [convolution.out_channels]
    return image, list(segments)


def _convolve(convolution: nn.Module, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    apply = functional.conv2d if weight.ndim == 4 else functional.conv3d
    return apply(image, weight, bias, convolution.stride, convolution.padding)  # type: ignore[arg-type]


def _up(up: nn.Module, image: Tensor) -> Tensor:
    weight = _to_multiple(_to_multiple(up.weight, 0), 1)  # type: ignore[arg-type]
    apply = functional.conv_transpose2d if weight.ndim == 4 else functional.conv_transpose3d
    bias = None if up.bias is None else _outputs(up.bias)  # type: ignore[arg-type]
    return apply(image, weight, bias, up.stride)  # type: ignore[arg-type]


def _head(head: nn.Module, image: Tensor) -> Tensor:
    apply = functional.conv2d if image.ndim == 4 else functional.conv3d
    return apply(image, _to_multiple(head.weight, 1), head.bias)  # type: ignore[arg-type]


def _inputs(weight: Tensor, segments: Sequence[int], channels: int) -> Tensor:
    """A kernel's input channels, each segment padded; the image's own are as they are."""
    if sum(segments) == channels:
        return weight
    return torch.cat([_to_multiple(part, 1) for part in weight.split(list(segments), dim=1)], dim=1)


def _outputs(tensor: Tensor) -> Tensor:
    return _to_multiple(tensor, 0)


def _to_multiple(tensor: Tensor, axis: int) -> Tensor:
    missing = -tensor.shape[axis] % MULTIPLE
    if not missing:
        return tensor
    return functional.pad(tensor, [0, 0] * (tensor.ndim - 1 - axis) + [0, missing])
