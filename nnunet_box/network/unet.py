"""The U-Net of the paper (Method, Network architectures): plain, padded, instance norm, leaky ReLU, no deep
supervision; and its named variants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnunet_box.network.accurate_norm import accurate_norm
from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.variant import PAPER, Recipe

LEAK = 0.01
NORM_EPS = 1e-5

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class InstanceNorm(nn.GroupNorm):
    """One group a channel: unlike torch's InstanceNorm it keeps channels-last memory, 1.16 times faster on a CPU.

    On such memory torch's GroupNorm adds a million float32 numbers one by one in a patch's first stage, and a CT window
    that is half air comes out 1 % off: ``accurate_norm`` takes its place there.

    In mixed precision statistics are float32 and the result is as short as the input. Automatic casting would make it
    float32, twice the memory; written out here, a compiled network does it in two passes.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, features, eps=NORM_EPS)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, [Z,] Y, X), each channel of each sample to mean 0 and deviation 1, then scaled and shifted."""
        if image.dtype in (torch.float16, torch.bfloat16):
            return instance_norm(image, self.weight, self.bias, self.eps)
        if image.device.type == "cpu" and not image.is_contiguous():
            return accurate_norm(image, self.weight, self.bias, self.eps)
        return super().forward(image)


def instance_norm(image: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The norm written out, for images of any length of numbers: (B, C, ...) with ``weight`` and ``bias`` (C,)."""
    axes = tuple(range(2, image.ndim))
    exact = image.float()
    variance, mean = torch.var_mean(exact, axes, correction=0, keepdim=True)
    shape = (-1, *[1] * len(axes))
    scale = torch.rsqrt(variance + eps) * weight.reshape(shape)
    return ((exact - mean) * scale + bias.reshape(shape)).to(image.dtype)


def _norm(recipe: Recipe, dimensions: int, features: int) -> nn.Module:
    if recipe.norm == "batch":
        return _BATCH_NORM[dimensions](features, eps=NORM_EPS)
    if recipe.norm == "none":
        return nn.Identity()
    return InstanceNorm(features)


def _block(recipe: Recipe, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Sequential:
    dimensions = len(kernel)
    padding = tuple(size // 2 for size in kernel)
    return nn.Sequential(
        _CONV[dimensions](inputs, outputs, tuple(kernel), stride=tuple(stride), padding=padding),
        _norm(recipe, dimensions, outputs),
        nn.ReLU(inplace=True) if recipe.activation == "relu" else nn.LeakyReLU(LEAK, inplace=True),
    )


def _stage(
    recipe: Recipe, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], convolutions: int
) -> nn.Sequential:
    return nn.Sequential(
        _block(recipe, inputs, outputs, kernel, stride),
        *(_block(recipe, outputs, outputs, kernel, [1] * len(kernel)) for _ in range(convolutions - 1)),
    )


class UNet(nn.Module):
    """Encoder and decoder of two convolutions a stage, joined by concatenation.

    A strided convolution goes down, a transposed convolution without bias (kernel = stride) up; the 1x1 head has no
    bias (authors' code of April 2019, where the paper is silent). A network imported from nnU-Net v2 may have other
    numbers of convolutions, and the biases; its configuration's ``blocks`` say so.

    Parameters
    ----------
    configuration: kernel sizes per stage (bottleneck last), pooling per step.
    inputs: image channels. classes: background included. recipe: norm, activation and deep supervision.
    """

    def __init__(self, configuration: Configuration, inputs: int, classes: int, recipe: Recipe = PAPER) -> None:
        super().__init__()
        dimensions = configuration.dimensions
        blocks = configuration.network_blocks
        features = blocks.features
        strides = [(1,) * dimensions, *configuration.pool_kernel_sizes]
        kernels = configuration.conv_kernel_sizes
        widths = [inputs, *features]
        self.encoder = nn.ModuleList(
            _stage(recipe, before, after, kernel, stride, convolutions)
            for (before, after), kernel, stride, convolutions in zip(
                pairwise(widths), kernels, strides, blocks.encoder_convolutions, strict=True
            )
        )
        self.upsampling = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for deep, convolutions in zip(range(len(features) - 1, 0, -1), blocks.decoder_convolutions, strict=True):
            below, here = features[deep], features[deep - 1]
            self.upsampling.append(
                _UP[dimensions](below, here, tuple(strides[deep]), stride=tuple(strides[deep]), bias=blocks.biases)
            )
            self.decoder.append(_stage(recipe, 2 * here, here, kernels[deep - 1], [1] * dimensions, convolutions))
        self.head = _CONV[dimensions](features[0], classes, 1, bias=blocks.biases)
        # The decoder's coarsest resolution gets no head of its own (nnU-Net's later recipe gives it no weight).
        sides = features[1 : len(features) - 2] if recipe.deep_supervision else ()
        self.side_heads = nn.ModuleList(_CONV[dimensions](here, classes, 1, bias=False) for here in sides)
        leak = 0.0 if recipe.activation == "relu" else LEAK
        self.apply(partial(_initialise, leak=leak))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, [Z,] Y, X) to logits (B, K, [Z,] Y, X); sizes are multiples of the total pooling."""
        features = image
        for decoded in self._decode(image):
            features = decoded
        logits: Tensor = self.head(features)
        return logits

    def at_every_resolution(self, image: Tensor) -> list[Tensor]:
        """Logits as ``forward`` gives them, then those of the coarser resolutions that have a head, finest first."""
        finest_first = list(self._decode(image))[::-1]
        return [head(features) for head, features in zip([self.head, *self.side_heads], finest_first, strict=False)]

    def _decode(self, image: Tensor) -> Iterator[Tensor]:
        """The bottleneck's features, then the decoder's, coarsest first; what is not kept by the caller is freed."""
        skips = []
        for stage in self.encoder:
            image = stage(image)
            skips.append(image)
        skips.pop()
        yield image
        for up, stage in zip(self.upsampling, self.decoder, strict=True):
            image = stage(torch.cat([up(image), skips.pop()], dim=1))
            yield image


def for_device(network: UNet, device: torch.device, training: bool = False, mixed: bool = False) -> UNet:
    """The network on ``device``, with channels last where that is faster.

    On a CPU it always is to predict; to train it is where the first kernels have three axes, and not where they lie in
    a plane (``benchmarks/training_step.py``). On a GPU it is in mixed precision.
    """
    network = network.to(device)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    planar = isinstance(first, nn.Conv2d) or 1 in first.kernel_size
    if mixed or (device.type == "cpu" and not (training and planar)):
        format_ = torch.channels_last if isinstance(network.head, nn.Conv2d) else torch.channels_last_3d
        network = network.to(memory_format=format_)  # type: ignore[call-overload]
    return network


def _initialise(module: nn.Module, leak: float) -> None:
    """He initialisation for the activation's slope, biases zero (authors' code of April 2019)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=leak)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
