"""A tiny case store that trains in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_box.planning.plan import Configuration, Plan
from nnunet_box.preprocessing.pipeline import Placement, PreparedCase
from nnunet_box.preprocessing.store import write_case

VOLUME = Configuration(
    patch_size=(8, 16, 16),
    batch_size=2,
    num_pool_per_axis=(1, 1, 1),
    pool_kernel_sizes=((2, 2, 2),),
    conv_kernel_sizes=((3, 3, 3), (3, 3, 3)),
    spacing=(1.0, 1.0, 1.0),
    median_shape=(10, 20, 20),
    in_plane_augmentation=False,
)
SLICES = Configuration(
    patch_size=(16, 16),
    batch_size=4,
    num_pool_per_axis=(1, 1),
    pool_kernel_sizes=((2, 2),),
    conv_kernel_sizes=((3, 3), (3, 3)),
    spacing=(1.0, 1.0, 1.0),
    median_shape=(10, 20, 20),
    in_plane_augmentation=False,
    axis_order=(0, 1, 2),
)


def toy_plan() -> Plan:
    return Plan(
        dataset="toy",
        channel_names=("MR",),
        labels={0: "background", 1: "ball", 2: "rod"},
        normalisation=("zscore",),
        use_nonzero_mask=False,
        memory_gb=12.0,
        configurations={"3d_fullres": VOLUME, "2d": SLICES},
    )


def toy_case(seed: int, shape: tuple[int, int, int] = (10, 20, 18)) -> PreparedCase:
    """A bright ball (label 1) and a dark rod (label 2) in noise."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.int8)
    labels[(z - 5) ** 2 + (y - random.integers(6, 10)) ** 2 + (x - 6) ** 2 < 12] = 1
    labels[2:8, 14:17, 12:15] = 2
    image = random.normal(0, 0.3, (1, *shape)).astype(np.float32)
    image[0] += np.array([0, 2, -2], np.float32)[labels]
    box = ((0, shape[0]), (0, shape[1]), (0, shape[2]))
    return PreparedCase(image, labels, Placement(shape, box, (1.0,) * 3, (1.0,) * 3, shape, (0, 1, 2)))


def toy_store(folder: Path, cases: int) -> list[str]:
    names = [f"case_{index}" for index in range(cases)]
    for index, name in enumerate(names):
        write_case(folder, name, toy_case(index), (8, 16, 16))
    return names
