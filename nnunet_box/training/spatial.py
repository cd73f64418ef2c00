"""batchgenerators' ``SpatialTransform`` with its own draws and our interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from batchgenerators.augmentations.utils import (
    create_matrix_rotation_2d,
    create_matrix_rotation_x_3d,
    create_matrix_rotation_y_3d,
    create_matrix_rotation_z_3d,
)
from batchgenerators.transforms.spatial_transforms import SpatialTransform
from numpy.typing import NDArray

from nnunet_box.training.warp import displacements, warp


class WarpTransform(SpatialTransform):  # type: ignore[misc]
    """The same random numbers in the same order, hence the same patches as ``SpatialTransform`` to rounding, many
    times sooner (``benchmarks/compare.py``).

    For the settings of ``augmentation.py``: the patch from the middle of what was read, cubic for the image with 0
    outside, linear for labels, one scale for all axes, a rotation about every axis.
    """

    def __call__(self, **batch: Any) -> dict[str, Any]:
        """``data`` float32 and ``seg`` of any dtype (B, C, [Z,] Y, X) to the patch size."""
        images, labels = batch[self.data_key], batch[self.label_key]
        shape = tuple(int(length) for length in self.patch_size)
        moved_images = np.empty((*images.shape[:2], *shape), dtype=np.float32)
        moved_labels = np.empty((*labels.shape[:2], *shape), dtype=labels.dtype)
        for sample in zip(images, labels, moved_images, moved_labels, strict=True):
            self._move(shape, *sample)
        return {**batch, self.data_key: moved_images, self.label_key: moved_labels}

    def _move(self, shape: tuple[int, ...], image: Any, label_maps: Any, moved: Any, moved_maps: Any) -> None:
        affine, offsets, moves = self._draw(shape)
        if moves:
            warp(image, label_maps, affine, offsets, self.border_cval_seg, moved, moved_maps)
        else:
            moved[:], moved_maps[:] = _middle(image, shape), _middle(label_maps, shape)

    def _draw(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float32] | None, bool]:
        """Matrix and offsets of one sample, and whether there are any, drawn as ``SpatialTransform`` draws."""
        dimensions = len(shape)
        matrix, offsets, moves = np.identity(dimensions), None, False
        if self.do_elastic_deform and np.random.uniform() < self.p_el_per_sample:
            alpha, sigma = np.random.uniform(*self.alpha), np.random.uniform(*self.sigma)
            noise = (np.random.random(shape) for _ in range(dimensions))
            offsets, moves = displacements(noise, shape, sigma, alpha), True
        if self.do_rotation and np.random.uniform() < self.p_rot_per_sample:
            angles = []
            for limits in (self.angle_x, self.angle_y, self.angle_z)[: 3 if dimensions == 3 else 1]:
                np.random.uniform()
                angles.append(np.random.uniform(*limits))
            matrix, moves = rotation(angles).T, True
        if self.do_scale and np.random.uniform() < self.p_scale_per_sample:
            smaller = np.random.random() < 0.5 and self.scale[0] < 1
            limits = (self.scale[0], 1) if smaller else (max(self.scale[0], 1), self.scale[1])
            matrix, moves = matrix * np.random.uniform(*limits), True
        return matrix, offsets, moves


def rotation(angles: Sequence[float]) -> NDArray[np.float64]:
    """Matrix (D, D) that turns row vectors by one angle in the plane, or by three about the axes in turn (radians)."""
    matrix: NDArray[np.float64]
    if len(angles) == 1:
        matrix = create_matrix_rotation_2d(angles[0])
    else:
        about_x = create_matrix_rotation_x_3d(angles[0])
        matrix = create_matrix_rotation_z_3d(angles[2], create_matrix_rotation_y_3d(angles[1], about_x))
    return matrix


def _middle(arrays: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """View of the last axes' middle."""
    starts = [(length - kept) // 2 for length, kept in zip(arrays.shape[1:], shape, strict=True)]
    return arrays[:, *(slice(start, start + kept) for start, kept in zip(starts, shape, strict=True))]
