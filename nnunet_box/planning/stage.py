"""One network's configuration: patch, topology and batch size for data at a given spacing."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import numpy as np

from nnunet_box.errors import UsageError
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.planning.memory import feature_map_elements, memory_budget
from nnunet_box.planning.patch import isotropic_patch, shrink_until
from nnunet_box.planning.plan import MIN_BATCH_SIZE, Configuration
from nnunet_box.planning.topology import Shape, Topology, pool_by_spacing, pool_late

LARGEST_SHARE_OF_DATASET = 0.05
"""A batch sees at most this part of the training voxels (authors' code of April 2019)."""

IN_PLANE_AUGMENTATION_ABOVE = 3
"""Ratio of a 3D patch's longest edge to its Z edge above which augmentation stays within slices."""

Spacing = tuple[float, float, float]
Shape3D = tuple[int, int, int]


def slice_axes(spacing: Sequence[float], shape: Sequence[int]) -> Shape3D:
    """(Z, Y, X) reordered to (slice axis, two axes of the slice): slices lie across the coarsest axis, first on a tie.

    An axis of a single voxel goes before it, as slices across another one would be lines.
    """
    across = list(shape).index(1) if 1 in shape else int(np.argmax(spacing))
    first, second = (axis for axis in range(3) if axis != across)
    return (across, first, second)


def plan_stage(
    fingerprint: Fingerprint, dimensions: Literal[2, 3], spacing: Spacing, shape: Shape3D, memory_gb: float
) -> Configuration:
    """Configuration of a 2D or 3D network for cases resampled to ``spacing`` mm, typically ``shape`` voxels (Z, Y, X).

    3D: the largest patch, roughly a cube in millimetres, of which two fit. 2D: whole slices, as the paper has it; the
    patch is cut as in 3D where two of them do not fit (the authors' code of April 2019 gives up there). The batch takes
    what memory is left, up to a twentieth of the data set, and is at least 2 (paper, Method).

    Raises
    ------
    UsageError: ``memory_gb`` is not a positive number, or so small that not even two patches of a few voxels fit.
    """
    order = slice_axes(spacing, shape) if dimensions == 2 else (0, 1, 2)
    axes = order[-dimensions:]
    network_spacing = [spacing[axis] for axis in axes]
    network_shape = tuple(shape[axis] for axis in axes)
    budget = memory_budget(dimensions, memory_gb)

    def build(patch: Sequence[int]) -> Topology:
        return pool_by_spacing(patch, network_spacing) if dimensions == 2 else pool_late(patch, network_spacing)

    def batch_that_fits(patch: Shape, topology: Topology) -> int:
        classes = fingerprint.foreground_classes + 1
        return budget.batch_that_fits(feature_map_elements(patch, topology, len(fingerprint.modalities), classes))

    start = network_shape if dimensions == 2 else isotropic_patch(spacing, shape)
    fitted = shrink_until(start, network_shape, build, lambda patch, net: batch_that_fits(patch, net) >= MIN_BATCH_SIZE)
    if fitted is None:
        raise UsageError(
            f"{memory_gb} GB of GPU memory: expected room for {MIN_BATCH_SIZE} patches; found too little even for the "
            f"smallest {dimensions}D patch of {len(fingerprint.modalities)} channels. Plan for more memory."
        )
    patch, topology = fitted
    share = round(LARGEST_SHARE_OF_DATASET * (prod(shape) * fingerprint.cases) / prod(patch))
    return Configuration(
        patch_size=patch,
        batch_size=min(batch_that_fits(patch, topology), max(share, MIN_BATCH_SIZE)),
        num_pool_per_axis=topology.num_pool_per_axis,
        pool_kernel_sizes=topology.pool_kernel_sizes,
        conv_kernel_sizes=topology.conv_kernel_sizes,
        spacing=spacing,
        median_shape=shape,
        in_plane_augmentation=dimensions == 3 and max(patch) / patch[0] > IN_PLANE_AUGMENTATION_ABOVE,
        axis_order=order if dimensions == 2 else None,
    )
