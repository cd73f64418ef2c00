"""Resampling an image without overshoot, as nnU-Net v2 does through scikit-image's ``resize``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnunet_box.preprocessing.planes import Shape
from nnunet_box.preprocessing.resample import resample_image


def resample_within_range(
    image: NDArray[np.float32], target: Shape, orders: tuple[int, int, int], apart: int | None
) -> NDArray[np.float32]:
    """Resample (C, Z, Y, X) to ``target`` (Z, Y, X) voxels; a spline's overshoot is cut to the range of its input.

    Without an axis treated apart that range is a channel's. Else slices across ``apart`` are interpolated first, each
    cut to its own range, and then what lies between slices.
    """
    source = image.shape[1:]
    if source == target:
        return image
    if apart == 0:
        return resample_image(image, target, orders, within_planes=True)
    z, y, x = (source[axis] if axis == apart else target[axis] for axis in range(3))
    in_plane = resample_image(image, (z, y, x), orders)
    if in_plane is not image:
        axes = tuple(axis + 1 for axis in range(3) if axis != apart)
        np.clip(in_plane, image.min(axis=axes, keepdims=True), image.max(axis=axes, keepdims=True), out=in_plane)
    return resample_image(in_plane, target, orders)
