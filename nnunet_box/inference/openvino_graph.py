"""The U-Net of a plan as an OpenVINO model in memory, from the parameters that the torch network was trained to.

There is no exported graph beside the weights that could differ from them: the plan says the layers, the file their
values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.variant import Recipe

LEAK = 0.01
NORM_EPS = 1e-5
"""Slope and epsilon of ``nnunet_box.network.unet``, which cannot be imported where torch is not installed."""
LARGEST_BLOCK = 4
"""Voxels along an axis whose mean is taken at once: the fewer, the less is left of rounding."""
ANY_BATCH = -1


class Mismatch(ValueError):
    """The parameters are not those of the plan's network. expected, found: of the first that differs."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"{found} instead of {expected}")
        self.expected, self.found = expected, found


class Parameters:
    """Named arrays, each handed out once and only in the shape the network has there."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._waiting = dict(arrays)

    def take(self, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        """The array as float32; raises ``Mismatch`` where it is absent or of another shape."""
        expected = f"{name} of shape {tuple(shape)}"
        if name not in self._waiting:
            raise Mismatch(expected, "none")
        array = self._waiting.pop(name)
        if array.shape != tuple(shape):
            raise Mismatch(expected, f"{name} of shape {array.shape}")
        return np.ascontiguousarray(array, dtype=np.float32)

    def finish(self) -> None:
        """Raise ``Mismatch`` where arrays are left that the network has no use for."""
        if self._waiting:
            raise Mismatch("no other parameters", ", ".join(sorted(self._waiting)[:3]))


def unet_model(
    ov: Any,
    configuration: Configuration,
    inputs: int,
    classes: int,
    recipe: Recipe,
    arrays: Mapping[str, NDArray[Any]],
) -> Any:
    """An ``openvino.Model`` of (B, C, [Z,] Y, X) to logits (B, K, [Z,] Y, X), B any, the other axes the patch's.

    ov: the module ``openvino``. inputs: image channels, and for a cascade those of the previous stage. arrays:
    parameters under the names of ``nnunet_box.network.unet.UNet``.

    Raises
    ------
    Mismatch: a parameter is missing, has another shape, or is of no use.
    """
    blocks, kernels = configuration.network_blocks, configuration.conv_kernel_sizes
    build = _Layers(ov, configuration.dimensions, recipe, blocks.biases, Parameters(arrays))
    features = blocks.features
    strides = [(1,) * configuration.dimensions, *configuration.pool_kernel_sizes]
    image = build.ops.parameter([ANY_BATCH, inputs, *configuration.patch_size], np.float32, name="image")
    skips, node = [], image
    for stage, ((before, after), kernel, stride, convolutions) in enumerate(
        zip(pairwise([inputs, *features]), kernels, strides, blocks.encoder_convolutions, strict=True)
    ):
        node = build.stage(node, f"encoder.{stage}", before, after, kernel, stride, convolutions)
        skips.append(node)
    skips.pop()
    for step, deep in enumerate(range(len(features) - 1, 0, -1)):
        below, here = features[deep], features[deep - 1]
        up = build.upsampling(node, f"upsampling.{step}", below, here, strides[deep])
        joined = build.ops.concat([up, skips.pop()], 1)
        convolutions = blocks.decoder_convolutions[step]
        node = build.stage(joined, f"decoder.{step}", 2 * here, here, kernels[deep - 1], None, convolutions)
    logits = build.head(node, "head", features[0], classes)
    if recipe.deep_supervision:
        # Trained with, not predicted with.
        for index, here in enumerate(features[1 : len(features) - 2]):
            build.parameters.take(f"side_heads.{index}.weight", (classes, here, *build.ones))
    build.parameters.finish()
    return ov.Model([logits], [image], "unet")


class _Layers:
    """The layers of one network, each named as its parameters are."""

    def __init__(self, ov: Any, dimensions: int, recipe: Recipe, biases: bool, parameters: Parameters) -> None:
        self.ops, self.recipe, self.biases, self.parameters = ov.opset13, recipe, biases, parameters
        self.ones, self.zeros = [1] * dimensions, [0] * dimensions
        self.leak = None if recipe.activation == "relu" else self.ops.constant(np.array([LEAK], dtype=np.float32))

    def stage(
        self,
        node: Any,
        name: str,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None,
        convolutions: int,
    ) -> Any:
        """Convolutions with norm and activation, the first with ``stride``."""
        for index in range(convolutions):
            block = f"{name}.{index}"
            node = self._convolution(node, f"{block}.0", inputs, outputs, kernel, stride)
            node = self._normalised(node, f"{block}.1", outputs)
            node = self.ops.relu(node) if self.leak is None else self.ops.prelu(node, self.leak)
            inputs, stride = outputs, None
        return node

    def upsampling(self, node: Any, name: str, inputs: int, outputs: int, stride: Sequence[int]) -> Any:
        """A transposed convolution whose kernel is its stride."""
        weight = self.parameters.take(f"{name}.weight", (inputs, outputs, *stride))
        result = self.ops.convolution_backprop_data(
            node,
            self._constant(weight),
            list(stride),
            pads_begin=self.zeros,
            pads_end=self.zeros,
            dilations=self.ones,
        )
        return self._with_bias(result, name, outputs)

    def head(self, node: Any, name: str, inputs: int, classes: int) -> Any:
        """A convolution of one voxel to the classes' logits."""
        weight = self.parameters.take(f"{name}.weight", (classes, inputs, *self.ones))
        constant = self._constant(weight)
        return self._with_bias(
            self.ops.convolution(node, constant, self.ones, self.zeros, self.zeros, self.ones), name, classes
        )

    def _convolution(
        self, node: Any, name: str, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int] | None
    ) -> Any:
        weight = self._constant(self.parameters.take(f"{name}.weight", (outputs, inputs, *kernel)))
        pads = [size // 2 for size in kernel]
        result = self.ops.convolution(node, weight, list(stride or self.ones), pads, pads, self.ones)
        return self.ops.add(result, self._per_channel(self.parameters.take(f"{name}.bias", (outputs,))))

    def _with_bias(self, node: Any, name: str, outputs: int) -> Any:
        if not self.biases:
            return node
        return self.ops.add(node, self._per_channel(self.parameters.take(f"{name}.bias", (outputs,))))

    def _normalised(self, node: Any, name: str, features: int) -> Any:
        if self.recipe.norm == "none":
            return node
        scale = self.parameters.take(f"{name}.weight", (features,))
        shift = self.parameters.take(f"{name}.bias", (features,))
        if self.recipe.norm == "batch":
            mean = self.parameters.take(f"{name}.running_mean", (features,))
            variance = self.parameters.take(f"{name}.running_var", (features,))
            self.parameters.take(f"{name}.num_batches_tracked", ())
            scale = scale / np.sqrt(variance + np.float32(NORM_EPS))
            shift = shift - mean * scale
            return self._scaled(node, self._per_channel(scale), self._per_channel(shift))
        mean = self._mean(node)
        centred = self.ops.subtract(node, mean)
        variance = self._mean(self.ops.multiply(centred, centred))
        deviation = self.ops.sqrt(self.ops.add(variance, self.ops.constant(np.float32(NORM_EPS))))
        slope = self.ops.divide(self._per_channel(scale), deviation)
        return self._scaled(node, slope, self.ops.subtract(self._per_channel(shift), self.ops.multiply(mean, slope)))

    def _mean(self, node: Any) -> Any:
        """Of each channel of each sample: of blocks, then of blocks of those, until one is left. The engine's own norm
        adds a million float32 numbers one by one: of a window that is half air, the result is 1 % off.
        """
        lengths = [length.get_length() for length in node.output(0).get_partial_shape()[2:]]
        while max(lengths) > 1:
            edges = [_block_edge(length) for length in lengths]
            node = self.ops.avg_pool(node, edges, self.zeros, self.zeros, edges, True)
            lengths = [length // edge for length, edge in zip(lengths, edges, strict=True)]
        return node

    def _scaled(self, node: Any, slope: Any, shift: Any) -> Any:
        return self.ops.add(self.ops.multiply(node, slope), shift)

    def _per_channel(self, values: NDArray[np.float32]) -> Any:
        return self._constant(values.reshape(1, -1, *self.ones))

    def _constant(self, values: NDArray[np.float32]) -> Any:
        return self.ops.constant(values)


def _block_edge(length: int) -> int:
    """The largest part of an axis that divides it, up to ``LARGEST_BLOCK``; all of it where none does."""
    found = max(edge for edge in range(1, LARGEST_BLOCK + 1) if length % edge == 0)
    return length if found == 1 else found
