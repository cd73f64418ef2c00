"""What augmentation does to one sample, drawn apart from doing it: for augmentation on a device.

Ranges and probabilities are those of ``augmentation.py``. Drawn before a patch is read, they say how much must be read:
a sample that is not moved needs no margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_box.planning.variant import Recipe
from nnunet_box.training.augmentation import (
    ELASTIC_ALPHA_2D,
    ELASTIC_ALPHA_3D,
    ELASTIC_SIGMA,
    GAMMA,
    GAMMA_PROBABILITY,
    PROBABILITY,
    SpatialRanges,
)
from nnunet_box.training.spatial import rotation


@dataclass(frozen=True)
class Draw:
    """One sample's augmentation.

    affine: (D, D) from a voxel's offset from the patch's centre to that from the source's, D = 2 where slices are moved
    in their plane. alpha, sigma: of the elastic deformation, in voxels; alpha is 0 where there is none. moves: whether
    any of these is drawn. gamma: one a channel, 1 where its intensities stay. flips: one an axis of the patch.
    """

    affine: NDArray[np.float64]
    alpha: float
    sigma: float
    moves: bool
    gamma: tuple[float, ...]
    flips: tuple[bool, ...]


def draw_sample(random: np.random.Generator, ranges: SpatialRanges, recipe: Recipe, channels: int) -> Draw:
    """Draw for one sample of the paper's augmentation, or of none at all.

    Raises
    ------
    ValueError: a recipe whose augmentation is not drawn here.
    """
    if recipe.augmentation not in ("paper", "none"):
        raise ValueError(f"augmentation {recipe.augmentation!r} is not drawn apart")
    axes = len(ranges.patch_size)
    planar = ranges.in_plane or axes == 2
    matrix, alpha, sigma, moves = np.identity(2 if planar else 3), 0.0, ELASTIC_SIGMA[0], False
    gamma = np.ones(channels)
    if recipe.augmentation == "paper":
        if random.random() < PROBABILITY:
            alpha = random.uniform(*(ELASTIC_ALPHA_2D if planar else ELASTIC_ALPHA_3D))
            sigma, moves = random.uniform(*ELASTIC_SIGMA), True
        if random.random() < PROBABILITY:
            angles = random.uniform(-ranges.rotation, ranges.rotation, size=1 if planar else 3)
            matrix, moves = rotation(list(angles)).T, True
        if random.random() < PROBABILITY:
            matrix, moves = matrix * _around_one(random, ranges.scale), True
        if random.random() < GAMMA_PROBABILITY:
            gamma = np.array([_around_one(random, GAMMA) for _ in range(channels)])
    flips = random.random(axes) < 0.5 if recipe.mirroring else np.zeros(axes, dtype=bool)
    return Draw(np.ascontiguousarray(matrix), alpha, sigma, moves, tuple(gamma.tolist()), tuple(flips.tolist()))


def _around_one(random: np.random.Generator, limits: tuple[float, float]) -> float:
    """Below one or above it with equal probability, then evenly."""
    return float(random.uniform(limits[0], 1) if random.random() < 0.5 else random.uniform(1, limits[1]))
