"""From a fingerprint to a plan, by the paper's rules and, where it is silent, those of the authors' code of April 2019.

``docs/fidelity.md`` lists each rule and the few places where we decide otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from nnunet_box.errors import InvalidData
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.planning.memory import REFERENCE_MEMORY_GB, typical_patch_voxels
from nnunet_box.planning.plan import Configuration, Plan
from nnunet_box.planning.stage import Shape3D, Spacing, plan_stage

TARGET_PERCENTILE = 50
"""Paper, Method: the median spacing."""

CASE_TO_PATCH = 4
"""Paper, Method: a cascade where the 3D patch covers less than a quarter of the typical case."""

LOW_RESOLUTION_STEP = 1.01
"""Factor on the spacing by which resolution is lost, step by step."""

EVEN_OUT_ABOVE = 2.0
"""While the coarsest axis exceeds others by more than this factor, only those lose resolution."""

LOW_RESOLUTION_WORTH = 1.5
"""A low resolution is kept where it has this factor fewer voxels than the full one."""

NONZERO_MASK_BELOW = 3 / 4
"""Share of voxels left after cropping below which z-scores are taken inside the nonzero mask."""


def plan_configurations(fingerprint: Fingerprint, memory_gb: float = REFERENCE_MEMORY_GB) -> dict[str, Configuration]:
    """``2d``, ``3d_fullres`` and, where a patch sees too little of a case, ``3d_lowres``.

    memory_gb: GPU memory to plan for; the paper's is 12.

    Raises
    ------
    UsageError: ``memory_gb`` is not a positive number, or so small that not even the smallest patch fits.
    """
    most_voxels = CASE_TO_PATCH * typical_patch_voxels(memory_gb)
    spacing = target_spacing(fingerprint)
    size = _typical_size(fingerprint, spacing)
    shape = _shape_at(spacing, spacing, size)
    configurations = {
        "2d": plan_stage(fingerprint, 2, spacing, shape, memory_gb),
        "3d_fullres": plan_stage(fingerprint, 3, spacing, shape, memory_gb),
    }
    if prod(shape) >= most_voxels:
        coarse = low_resolution_spacing(spacing, size.tolist(), most_voxels)
        coarse_shape = _shape_at(spacing, coarse, size)
        if LOW_RESOLUTION_WORTH * prod(coarse_shape) < prod(shape):
            configurations["3d_lowres"] = plan_stage(fingerprint, 3, coarse, coarse_shape, memory_gb)
    return configurations


def make_plan(
    fingerprint: Fingerprint, dataset_name: str, labels: dict[int, str], memory_gb: float = REFERENCE_MEMORY_GB
) -> Plan:
    """The whole plan of a data set.

    labels: value to name, 0 is the background. Channels named CT (in any case) are normalised as CT, all others by
    z-score; the nonzero mask is used where cropping removed more than a quarter of the typical case.

    Raises
    ------
    InvalidData: the fingerprint was taken with other labels, or it lacks the intensities that CT needs.
    UsageError: as ``plan_configurations``.
    """
    if len(labels) != fingerprint.foreground_classes + 1:
        raise InvalidData(
            f"{dataset_name}'s fingerprint",
            f"{len(labels) - 1} foreground classes, as the data set declares",
            f"{fingerprint.foreground_classes}",
            "The labels changed since it was taken; run nnbox plan on the data set again.",
        )
    normalisation = tuple("ct" if is_ct(name) else "zscore" for name in fingerprint.modalities)
    if "ct" in normalisation and fingerprint.intensities is None:
        raise InvalidData(
            f"{dataset_name}'s fingerprint",
            "foreground intensities, which CT is normalised by",
            "none",
            "Run nnbox plan on the data set, which measures them.",
        )
    return Plan.model_validate(
        {
            "dataset": dataset_name,
            "channel_names": fingerprint.modalities,
            "labels": labels,
            "normalisation": normalisation,
            "use_nonzero_mask": fingerprint.size_after_crop_ratio < NONZERO_MASK_BELOW,
            "intensities": fingerprint.intensities,
            "memory_gb": memory_gb,
            "configurations": plan_configurations(fingerprint, memory_gb),
        }
    )


def is_ct(modality: str) -> bool:
    """Whether a channel of that name holds Hounsfield units."""
    return modality.strip().lower() == "ct"


def target_spacing(fingerprint: Fingerprint) -> Spacing:
    """Median spacing over the training cases, axis by axis, in mm (Z, Y, X) (paper, Method)."""
    z, y, x = np.percentile(np.array(fingerprint.spacings), TARGET_PERCENTILE, axis=0)
    return (float(z), float(y), float(x))


def low_resolution_spacing(spacing: Spacing, typical_size: Sequence[float], most_voxels: float) -> Spacing:
    """Spacing in mm (Z, Y, X) at which a case of ``typical_size`` voxels at ``spacing`` has at most ``most_voxels``.

    Resolution goes one per cent at a time: first along axes more than twice as fine as the coarsest, then along all.
    """
    full = np.array(spacing)
    current = full.copy()
    while np.prod(full / current * np.array(typical_size)) > most_voxels:
        finer = current.max() / current > EVEN_OUT_ABOVE
        current[finer if finer.any() else slice(None)] *= LOW_RESOLUTION_STEP
    z, y, x = current
    return (float(z), float(y), float(x))


def _typical_size(fingerprint: Fingerprint, spacing: Spacing) -> NDArray[np.float64]:
    """Median size over cases at the target spacing, in fractions of voxels (Z, Y, X)."""
    resampled = np.array(fingerprint.spacings) / np.array(spacing) * np.array(fingerprint.sizes)
    return np.asarray(np.median(resampled, axis=0), dtype=np.float64)


def _shape_at(spacing: Spacing, other: Spacing, size: NDArray[np.float64]) -> Shape3D:
    """A case of ``size`` voxels at ``spacing``, in whole voxels at ``other``; at least one along each axis."""
    z, y, x = np.maximum(np.round(np.array(spacing) / np.array(other) * size), 1)
    return (int(z), int(y), int(x))
