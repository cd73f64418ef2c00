"""Drawn images for trying a model where no real case is at hand: a body in air with rounded structures, and noise.

They belong to no patient and show no anatomy; what counts is that they take the road of a real case: air around the
body that is cropped, intensities where the plan expects them, edges, noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AIR_CT = -1000.0
BODY = 0.9
"""Diameter of the body as a share of the image."""

STRUCTURES = 12
LEVELS = (-1.2, -0.5, 0.6, 1.4)
"""Intensity of structures in standard deviations from the body's."""

NOISE = 0.15


@dataclass(frozen=True)
class Look:
    """Intensities of a channel. mean, deviation: of the body. air: of what is around it; 0 where that is cropped."""

    mean: float = 300.0
    deviation: float = 80.0
    air: float = 0.0


def draw_phantom(shape: tuple[int, int, int], looks: Sequence[Look], seed: int) -> NDArray[np.float32]:
    """Voxels (C, Z, Y, X); all channels show the same structures, each with its own contrast and noise.

    The same arguments give the same voxels. Values are whole numbers, so that they survive every image format.

    Raises
    ------
    ValueError: an axis without voxels, or no channel.
    """
    if min(shape) < 1 or not looks:
        raise ValueError(f"a phantom of shape {shape} with {len(looks)} channels")
    random = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, length, dtype=np.float32) if length > 1 else np.zeros(1, np.float32) for length in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    # A cylinder along Z: what is imaged goes on above and below.
    body = (y / BODY) ** 2 + (x / BODY) ** 2 <= 1
    body = np.broadcast_to(body, shape)
    structures = np.zeros(shape, dtype=np.uint8)
    for number in range(1, STRUCTURES + 1):
        centre = random.uniform(-0.6, 0.6, 3)
        radius = random.uniform(0.1, 0.35, 3)
        away = sum(((axis - at) / r) ** 2 for axis, at, r in zip((z, y, x), centre, radius, strict=True))
        structures[np.broadcast_to(away <= 1, shape) & body] = number
    image = np.empty((len(looks), *shape), dtype=np.float32)
    for channel, look in zip(image, looks, strict=True):
        levels = np.concatenate([[0.0], random.choice(LEVELS, STRUCTURES)]).astype(np.float32)
        channel[:] = look.mean + look.deviation * levels[structures]
        channel += look.deviation * NOISE * random.standard_normal(shape, dtype=np.float32)
        np.rint(channel, out=channel)
        if look.air == 0:
            # Inside the body nothing is exactly 0, or it would be taken for air.
            channel[channel == 0] = 1
        channel[~body] = look.air
    return image
