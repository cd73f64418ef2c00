"""The U-Net of the paper (Method, Network architectures): plain, padded, instance norm, leaky ReLU, no deep
supervision.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnunet_box.planning.plan import Configuration

LEAK = 0.01
NORM_EPS = 1e-5

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def _block(dimensions: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Sequential:
    padding = tuple(size // 2 for size in kernel)
    return nn.Sequential(
        _CONV[dimensions](inputs, outputs, tuple(kernel), stride=tuple(stride), padding=padding),
        # Instance norm: one group a channel. Unlike torch's InstanceNorm it keeps channels-last memory, 9 % a step
        # on a CPU.
        nn.GroupNorm(outputs, outputs, eps=NORM_EPS),
        nn.LeakyReLU(LEAK, inplace=True),
    )


def _stage(dimensions: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(
        _block(dimensions, inputs, outputs, kernel, stride),
        _block(dimensions, outputs, outputs, kernel, [1] * dimensions),
    )


class UNet(nn.Module):
    """Encoder and decoder of two convolutions a stage, joined by concatenation.

    A strided convolution goes down, a transposed convolution without bias (kernel = stride) up; the 1x1 head has no
    bias
    (authors' code of April 2019, where the paper is silent).

    Parameters
    ----------
    configuration: kernel sizes per stage (bottleneck last), pooling per step.
    inputs: image channels. classes: background included.
    """

    def __init__(self, configuration: Configuration, inputs: int, classes: int) -> None:
        super().__init__()
        dimensions = configuration.dimensions
        features = configuration.features
        strides = [(1,) * dimensions, *configuration.pool_kernel_sizes]
        kernels = configuration.conv_kernel_sizes
        widths = [inputs, *features]
        self.encoder = nn.ModuleList(
            _stage(dimensions, before, after, kernel, stride)
            for (before, after), kernel, stride in zip(pairwise(widths), kernels, strides, strict=True)
        )
        self.upsampling = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for deep in range(len(features) - 1, 0, -1):
            below, here = features[deep], features[deep - 1]
            self.upsampling.append(
                _UP[dimensions](below, here, tuple(strides[deep]), stride=tuple(strides[deep]), bias=False)
            )
            self.decoder.append(_stage(dimensions, 2 * here, here, kernels[deep - 1], [1] * dimensions))
        self.head = _CONV[dimensions](features[0], classes, 1, bias=False)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, [Z,] Y, X) to logits (B, K, [Z,] Y, X); sizes are multiples of the total pooling."""
        skips = []
        for stage in self.encoder:
            image = stage(image)
            skips.append(image)
        skips.pop()
        for up, stage in zip(self.upsampling, self.decoder, strict=True):
            image = stage(torch.cat([up(image), skips.pop()], dim=1))
        logits: Tensor = self.head(image)
        return logits


def for_device(network: UNet, device: torch.device) -> UNet:
    """The network on ``device``, channels last on a CPU, where the convolutions then need no copies."""
    network = network.to(device)
    if device.type == "cpu":
        format_ = torch.channels_last if isinstance(network.head, nn.Conv2d) else torch.channels_last_3d
        network = network.to(memory_format=format_)  # type: ignore[call-overload]
    return network


def _initialise(module: nn.Module) -> None:
    """He initialisation for a leaky slope of 0.01, biases zero (authors' code of April 2019)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=LEAK)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
