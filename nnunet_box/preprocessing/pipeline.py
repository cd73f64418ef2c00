"""One case from its file's grid to the network's: crop, resample, normalise. Used for training and for prediction
alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_box.errors import InvalidData
from nnunet_box.planning.conventions import PAPER_RESAMPLING, Conventions, Interpolation, Resampling
from nnunet_box.planning.plan import Configuration, Plan
from nnunet_box.preprocessing.crop import Box, bounding_box, box_slices, nonzero_mask
from nnunet_box.preprocessing.normalise import normalise
from nnunet_box.preprocessing.planes import Shape
from nnunet_box.preprocessing.resample import (
    apart_axis,
    axis_orders,
    resample_image,
    resample_labels,
    resampled_shape,
)
from nnunet_box.preprocessing.within_range import resample_within_range

Voxel = TypeVar("Voxel", bound=np.generic)

MOST_ENLARGED = 1000
"""Voxels of the network's grid for one of the file's. Slices of 10 mm brought to 1 mm are 10, of half the resolution in
plane too 40; beyond ten along every axis nothing of an image is left.
"""


@dataclass(frozen=True)
class Placement:
    """The way back from the network's grid to the file's.

    shape: the file's (Z, Y, X). box: what was kept of it. spacing: of the file, mm (Z, Y, X).
    axis_order: the network's axes in terms of the file's. target_spacing, target_shape: the network's grid, in the
        file's axes. resampling: the interpolation there and back. network_grid_first: see ``Conventions``.
    """

    shape: Shape
    box: Box
    spacing: tuple[float, float, float]
    target_spacing: tuple[float, float, float]
    target_shape: Shape
    axis_order: tuple[int, int, int]
    resampling: Resampling = PAPER_RESAMPLING
    network_grid_first: bool = False

    def orders(self, kind: Interpolation) -> tuple[int, int, int]:
        """Interpolation order per axis on the way to the network's grid."""
        return axis_orders(self.spacing, self.target_spacing, kind.order, kind.order_apart, kind.apart)

    @property
    def apart(self) -> int | None:
        """Axis of the file along which an image is interpolated apart, if there is one."""
        return apart_axis(self.spacing, self.target_spacing, self.resampling.image.apart)

    @property
    def orders_back(self) -> tuple[int, int, int]:
        """Interpolation order per axis of the network's outputs, on the way to the file's grid."""
        kind = self.resampling.outputs
        grids = (self.spacing, self.target_spacing)
        first, then = grids[::-1] if self.network_grid_first else grids
        return axis_orders(first, then, kind.order, kind.order_apart, kind.apart)

    @property
    def cropped_shape(self) -> Shape:
        z, y, x = (stop - start for start, stop in self.box)
        return (z, y, x)

    def to_file_axes(self, array: NDArray[Voxel]) -> NDArray[Voxel]:
        """(C, ...) in the network's axes to (C, Z, Y, X)."""
        back = np.argsort(self.axis_order)
        return array.transpose(0, *(int(axis) + 1 for axis in back))


@dataclass(frozen=True)
class PreparedCase:
    """A case on the network's grid, in the network's axes.

    image: (C, Z, Y, X) float32. labels: (Z, Y, X) int8, -1 outside the nonzero mask where the plan uses it; None
        without labels. mask: nonzero voxels (Z, Y, X) of what was kept, on the file's grid.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int8] | None
    placement: Placement
    mask: NDArray[np.bool_] | None = None


def target_spacing(configuration: Configuration, spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Spacing (Z, Y, X) a case is resampled to; slices of a 2D configuration keep their own distance."""
    target = list(configuration.spacing)
    if configuration.dimensions == 2:
        through = (configuration.axis_order or (0, 1, 2))[0]
        target[through] = spacing[through]
    return (target[0], target[1], target[2])


def check_enlargement(
    file: Path, shape: Sequence[int], spacing: tuple[float, float, float], configurations: Iterable[Configuration]
) -> None:
    """Refuse a grid (Z, Y, X; mm) whose resampling would make far more voxels than there are: a spacing in another
    unit, or a damaged header, would take all memory and days.

    Raises
    ------
    InvalidData: naming the file and both spacings.
    """
    for configuration in configurations:
        goal = target_spacing(configuration, spacing)
        ratio = math.prod(resampled_shape(shape, spacing, goal)) / math.prod(shape)
        if ratio > MOST_ENLARGED:
            near, own = (" x ".join(f"{length:g}" for length in lengths) for lengths in (goal, spacing))
            raise InvalidData(
                file,
                f"a spacing near the plan's {near} mm (Z, Y, X)",
                f"{own} mm, by which each voxel becomes {ratio:.3g}",
                "Correct the header's spacing, or use the model of such images.",
            )


def prepare_case(
    image: NDArray[np.float32],
    spacing: tuple[float, float, float],
    labels: NDArray[np.uint8] | None,
    plan: Plan,
    configuration: Configuration,
) -> PreparedCase:
    """Crop to nonzero, resample, normalise, in that order (authors' code of April 2019); where the plan's conventions
    say so, normalise before resampling.

    image: (C, Z, Y, X) in the file's own intensities. spacing: mm (Z, Y, X). labels: (Z, Y, X) or None.
    """
    mask = nonzero_mask(image)
    placement = _placement(mask, spacing, configuration, plan.steps)
    inside, goal_shape, kinds = box_slices(placement.box), placement.target_shape, placement.resampling
    axes = placement.axis_order
    outside_value = len(plan.labels)
    keep_mask = plan.use_nonzero_mask
    marked = None if labels is None else labels[inside]
    if keep_mask:
        marked = np.zeros(placement.cropped_shape, dtype=np.uint8) if marked is None else marked.copy()
        marked[~mask[inside] & (marked == 0)] = outside_value
    # Normalisation works in place and the caller keeps the image.
    cropped = np.ascontiguousarray(image[(slice(None), *inside)])
    if plan.steps.normalise_first:
        cropped = _apart_from(cropped, image)
        normalise(cropped, plan.normalisation, plan.intensities, mask[inside] if keep_mask else None)
    if plan.steps.within_range:
        resampled = resample_within_range(cropped, goal_shape, placement.orders(kinds.image), placement.apart)
    else:
        resampled = resample_image(cropped, goal_shape, placement.orders(kinds.image))
    on_grid = (
        resample_labels(marked, goal_shape, placement.orders(kinds.labels))
        if marked is not None and (labels is not None or not plan.steps.normalise_first)
        else np.zeros(0, dtype=np.uint8)
    )
    del cropped
    if not plan.steps.normalise_first:
        resampled = _apart_from(resampled, image)
        grid_mask = on_grid != outside_value if keep_mask else None
        normalise(resampled, plan.normalisation, plan.intensities, grid_mask)
    prepared_labels = None
    if labels is not None:
        prepared_labels = on_grid.astype(np.int8)
        prepared_labels[on_grid == outside_value] = -1
        prepared_labels = np.ascontiguousarray(prepared_labels.transpose(axes))
    turned = np.ascontiguousarray(resampled.transpose(0, *(axis + 1 for axis in axes)))
    return PreparedCase(turned, prepared_labels, placement, mask[inside])


def _apart_from(array: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy where the array is a view of the image."""
    return array.copy() if np.may_share_memory(array, image) else array


def same_grid(one: Configuration, other: Configuration, spacing: tuple[float, float, float]) -> bool:
    """Whether two configurations of a plan prepare a case of that spacing (mm, Z, Y, X) to the same voxels."""
    return (
        target_spacing(one, spacing) == target_spacing(other, spacing)
        and (one.axis_order or (0, 1, 2)) == (other.axis_order or (0, 1, 2))
        and one.interpolation == other.interpolation
    )


def case_placement(
    image: NDArray[np.float32], spacing: tuple[float, float, float], configuration: Configuration
) -> Placement:
    """Where ``prepare_case`` puts an image (C, Z, Y, X) of that spacing (mm, Z, Y, X) by the paper's conventions,
    without doing so.
    """
    return _placement(nonzero_mask(image), spacing, configuration, Conventions())


def _placement(
    mask: NDArray[np.bool_], spacing: tuple[float, float, float], configuration: Configuration, steps: Conventions
) -> Placement:
    box = bounding_box(mask)
    goal = target_spacing(configuration, spacing)
    axes = configuration.axis_order or (0, 1, 2)
    z, y, x = mask.shape
    return Placement(
        shape=(z, y, x),
        box=box,
        spacing=spacing,
        target_spacing=goal,
        target_shape=resampled_shape((stop - start for start, stop in box), spacing, goal),
        axis_order=(axes[0], axes[1], axes[2]),
        resampling=configuration.interpolation,
        network_grid_first=steps.network_grid_first,
    )
