"""What the challenges' scorers share: pairing predictions with references, and statistics that survive missing
values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from nnbox_challenges.layout import children, describe, require_folder
from nnunet_box.dataset.volumes import is_volume, strip_suffix
from nnunet_box.errors import InvalidData


def label_files(folder: Path) -> dict[str, Path]:
    """Volumes of a folder by name without suffix.

    Raises
    ------
    InvalidData: no such folder, or no volumes in it.
    """
    folder = require_folder(folder)
    files = {strip_suffix(path): path for path in children(folder) if path.is_file() and is_volume(path)}
    if not files:
        raise InvalidData(folder, "label maps (.nii.gz)", describe(folder), "Give the folder that holds them.")
    return files


def pair(predictions: Mapping[str, Path], references: Mapping[str, Path]) -> list[tuple[str, Path, Path]]:
    """(case, prediction, reference), by case; references without a prediction are left to the caller to report.

    Raises
    ------
    InvalidData: a prediction has no reference.
    """
    for case, prediction in predictions.items():
        if case not in references:
            some = ", ".join(list(references)[:3])
            raise InvalidData(
                prediction,
                f"a reference of that name (there are {some}, ...)",
                "none",
                "Rename or remove the prediction.",
            )
    return [(case, predictions[case], references[case]) for case in sorted(predictions)]


def mean(values: Iterable[float]) -> float:
    """Mean of the defined values; NaN where there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def finite(distance: float) -> float:
    """A distance, or NaN where it is infinite because one side is empty."""
    return distance if math.isfinite(distance) else math.nan


def agreement(predicted: Iterable[float], reference: Iterable[float]) -> dict[str, float]:
    """Correlation, bias (mean of prediction - reference) and 95 % limits of agreement (bias -/+ 1.96 SD) of paired
    values.

    Pairs with an undefined side are left out; what cannot be computed from the rest is NaN.
    """
    pairs = np.array(
        [(p, r) for p, r in zip(predicted, reference, strict=True) if not (math.isnan(p) or math.isnan(r))]
    )
    result = {
        "cases": float(len(pairs)),
        "correlation": math.nan,
        "bias": math.nan,
        "lower_limit": math.nan,
        "upper_limit": math.nan,
    }
    if not len(pairs):
        return result
    difference = pairs[:, 0] - pairs[:, 1]
    result["bias"] = float(difference.mean())
    if len(pairs) > 1:
        spread = 1.96 * float(difference.std(ddof=1))
        result["lower_limit"], result["upper_limit"] = result["bias"] - spread, result["bias"] + spread
        if np.all(pairs.std(axis=0) > 0):
            result["correlation"] = float(np.corrcoef(pairs.T)[0, 1])
    return result
