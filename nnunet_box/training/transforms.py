"""batchgenerators' gamma and mirroring with their own draws, in place and without needless copies."""

from __future__ import annotations

from typing import Any

import numpy as np
from batchgenerators.transforms.color_transforms import GammaTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform
from numpy.typing import NDArray

SMALLEST_RANGE, SMALLEST_DEVIATION = 1e-7, 1e-8
"""Added to what is divided by, as in batchgenerators."""


class InPlaceGamma(GammaTransform):  # type: ignore[misc]
    """The same images as ``GammaTransform`` to rounding, for ``per_channel`` and ``retain_stats``."""

    def __call__(self, **batch: Any) -> dict[str, Any]:
        """``data`` (B, C, [Z,] Y, X) float32 is changed in place."""
        for sample in batch[self.data_key]:
            if np.random.uniform() >= self.p_per_sample:
                continue
            for channel in sample:
                darker = np.random.random() < 0.5 and self.gamma_range[0] < 1
                limits = (self.gamma_range[0], 1) if darker else (max(self.gamma_range[0], 1), self.gamma_range[1])
                change_gamma(channel, np.random.uniform(*limits), self.invert_image)
        return batch


def change_gamma(image: NDArray[np.float32], gamma: float, inverted: bool) -> None:
    """Raise the place of each voxel between the darkest and the brightest to the power ``gamma``, in place; mean and
    deviation stay. inverted: between the brightest and the darkest.
    """
    mean, deviation = float(image.mean()), float(image.std())
    low, high = float(image.min()), float(image.max())
    span = high - low + SMALLEST_RANGE
    image -= np.float32(high if inverted else low)
    image *= np.float32((-1 if inverted else 1) / span)
    # numpy's float32 logarithm and exponential are vectorised, its power is not. The darkest voxel is exp(-inf) = 0.
    with np.errstate(divide="ignore"):
        np.log(image, out=image)
    image *= np.float32(gamma)
    np.exp(image, out=image)
    factor = deviation / (float(image.std()) + SMALLEST_DEVIATION / span) * (-1 if inverted else 1)
    shift = mean - factor * float(image.mean())
    image *= np.float32(factor)
    image += np.float32(shift)


class OneCopyMirror(MirrorTransform):  # type: ignore[misc]
    """The same flips as ``MirrorTransform``: all axes of a sample in one copy, none where nothing is flipped."""

    def __call__(self, **batch: Any) -> dict[str, Any]:
        """``data`` and ``seg`` (B, C, [Z,] Y, X) are changed in place."""
        for sample, label_maps in zip(batch[self.data_key], batch[self.label_key], strict=True):
            if np.random.uniform() >= self.p_per_sample:
                continue
            axes = tuple(axis + 1 for axis in range(sample.ndim - 1) if axis in self.axes and np.random.uniform() < 0.5)
            if axes:
                for array in (sample, label_maps):
                    array[:] = np.flip(array, axes)
        return batch
