"""Where a volume lies in space."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_SPACING_MM, MOST_SPACING_MM = 1e-9, 1e9
"""Beyond these nothing that computes with a grid can be relied on: squares vanish or overflow in a header's float32."""

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def is_spacing(lengths: Iterable[float]) -> bool:
    """Whether millimetres along axes are positive, finite, and such as can be computed with."""
    return all(LEAST_SPACING_MM <= length <= MOST_SPACING_MM for length in lengths)


@dataclass(frozen=True)
class Geometry:
    """Grid of a volume.

    shape: voxels along (Z, Y, X).
    spacing: millimetres along (Z, Y, X).
    origin: millimetres (x, y, z) of the first voxel's centre, in LPS as ITK keeps it.
    direction: row-major 3x3 cosines in LPS, columns are the x, y, z axes of the array read backwards, as in ITK.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY

    def affine_ras(self) -> NDArray[np.float64]:
        """NIfTI affine, 4x4, from voxel indices (x, y, z) to millimetres in RAS."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(self.direction).reshape(3, 3) * np.asarray(self.spacing[::-1])
        affine[:3, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    @classmethod
    def from_affine_ras(
        cls, shape: tuple[int, int, int], affine: NDArray[np.float64], spacing: tuple[float, float, float]
    ) -> Geometry:
        """Geometry from a NIfTI affine; ``spacing`` (Z, Y, X) is taken as given, since ACDC's affine carries none.

        An affine that is singular or not finite gives the identity direction.
        """
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)
        lengths = np.linalg.norm(lps[:3, :3], axis=0)
        direction = lps[:3, :3] / lengths if np.all(lengths > 0) else np.eye(3)
        if not np.all(np.isfinite(direction)) or abs(np.linalg.det(direction)) < 1e-6:
            direction = np.eye(3)
        origin = tuple(float(value) for value in np.nan_to_num(lps[:3, 3], posinf=0.0, neginf=0.0))
        return cls(
            shape, spacing, (origin[0], origin[1], origin[2]), tuple(float(value) for value in direction.ravel())
        )
