"""PROMISE12's measures (Litjens et al. 2014): four of them, on the whole gland, its base and its apex."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbox_challenges.layout import require_folder
from nnbox_challenges.promise12_layout import PARTS, find_cases
from nnbox_challenges.scores import label_files, mean, pair
from nnunet_box.dataset.cases import read_label
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import read_header
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.metrics import confusion_matrix, label_counts, surface_distances
from nnunet_box.evaluation.nearest import Spacing
from nnunet_box.files import read_json
from nnunet_box.progress import track

REGIONS = ("whole", "base", "apex")
PERFECT = {
    "dice": 1.0,
    "relative_volume_difference_percent": 0.0,
    "average_boundary_distance_mm": 0.0,
    "hausdorff_95_mm": 0.0,
}
"""Measure to its value of a perfect segmentation."""

VALUES = {0, 1}
OBSERVER_SCORE = 85.0
"""What a second observer's mean measure is worth; 100 is perfect, the line goes on to 0 and stays there."""

OBSERVER_FILE = "promise12_observer.json"
"""Looked for in the folder of references: a second observer's mean measures, region to measure to number. They were
published in the paper only, and without them no score can be computed.
"""

Slab = tuple[slice, slice, slice]


def evaluate(predictions: Path, references: Path, observer: Path | None = None) -> dict[str, Any]:
    """Score predictions named ``CaseNN`` or ``PART_CaseNN``, of any format.

    references: a PROMISE12 folder with ``_segmentation`` files, a converted data set, or a folder of label maps named
    as the predictions. observer: the constants of the 0 to 100 score; else ``promise12_observer.json`` among the
    references; without either there are the measures alone.

    Arrays are compared voxel by voxel, spacing and directions are the reference's. Volume difference is 100 (prediction
    / reference - 1), so too much is positive; its score takes the size alone. The average boundary distance is the mean
    over the border voxels of both sides together, HD95 their 95th percentile. An empty prediction has Dice 0, volume
    difference -100 % and no distances (NaN, left out of the mean and counted); its scores are 0.

    Raises
    ------
    InvalidData: no predictions, one without a reference, another shape, an undeclared label, a reference without a
    prostate, or constants that are none.
    """
    files = reference_files(references)
    named: dict[str, Path] = {}
    for name, file in label_files(predictions).items():
        other = named.setdefault(_named(name, file, files), file)
        if other != file:
            raise InvalidData(file, "one prediction a case", f"{other.name} as well", "Remove one of them.")
    pairs = pair(named, files)
    cases = [_case(*item) for item in track(pairs, "Scoring")]
    regions = {region: _summary([case["regions"][region] for case in cases]) for region in REGIONS}
    result = {
        "challenge": "promise12",
        "cases": len(cases),
        "missing": sorted(set(files) - set(named)),
        "mean": {"dice": regions["whole"]["dice"]},
        "regions": regions,
        "per_case": cases,
    }
    constants = observer or require_folder(references) / OBSERVER_FILE
    if observer is not None or constants.is_file():
        means = read_observer(constants)
        for case in cases:
            case["score"] = score(case["regions"], means)
        result["score"] = mean(case["score"] for case in cases)
    return result


def reference_files(references: Path) -> dict[str, Path]:
    """Reference label maps by case.

    Raises
    ------
    InvalidData: no label maps.
    """
    folder = require_folder(references)
    if (folder / "labelsTr").is_dir():
        return label_files(folder / "labelsTr")
    try:
        found = {case.id: case.reference for case in find_cases(folder) if case.reference is not None}
    except InvalidData as refusal:
        if refusal.file != folder:
            raise
        found = {}
    return found or label_files(folder)


def _named(name: str, file: Path, references: Mapping[str, Path]) -> str:
    """The reference's name of a prediction: its own, or with or without the part that stands before it."""
    part, _, bare = name.partition("_")
    spellings = [name, bare] if part in PARTS else [name, *(f"{part}_{name}" for part in PARTS)]
    candidates = [key for key in spellings if key in references]
    if len(candidates) > 1:
        raise InvalidData(
            file,
            "references of one part of the challenge",
            f"{' and '.join(candidates)}",
            "Give the folder of the part these predictions are of.",
        )
    return candidates[0] if candidates else name


def regions_of(reference: NDArray[np.bool_], geometry: Geometry) -> dict[str, Slab]:
    """Whole, base and apex as parts of the volume (Z, Y, X): the slices of the reference's prostate in three, the
    cranial third the base, the caudal third the apex, each going on to the volume's edge.

    Cut along the axis that runs most nearly from foot to head, in the direction the geometry says: files run both ways.
    A number of slices that is no multiple of three is rounded; the paper says "approximately equal".
    """
    cranial = np.asarray(geometry.direction).reshape(3, 3)[2]
    column = int(np.argmax(np.abs(cranial)))
    axis = 2 - column
    occupied = np.flatnonzero(reference.any(axis=tuple(other for other in range(3) if other != axis)))
    first, stop = int(occupied[0]), int(occupied[-1]) + 1
    third = max(1, round((stop - first) / 3))
    low, high = _slab(axis, slice(None, first + third)), _slab(axis, slice(stop - third, None))
    base, apex = (high, low) if cranial[column] > 0 else (low, high)
    return {"whole": _slab(axis, slice(None)), "base": base, "apex": apex}


def _slab(axis: int, slices: slice) -> Slab:
    z, y, x = (slices if other == axis else slice(None) for other in range(3))
    return z, y, x


def _case(case: str, prediction_file: Path, reference_file: Path) -> dict[str, Any]:
    reference = read_label(reference_file, VALUES, reference_file)
    prediction = read_label(prediction_file, VALUES, reference_file)
    if not reference.any():
        raise InvalidData(reference_file, "a prostate", "background only", "Copy it again from the download.")
    geometry = read_header(reference_file)[0]
    regions = regions_of(reference > 0, geometry)
    scores = {name: measures(prediction[slab], reference[slab], geometry.spacing) for name, slab in regions.items()}
    return {"case": case, "regions": scores}


def measures(prediction: NDArray[np.uint8], reference: NDArray[np.uint8], spacing: Spacing) -> dict[str, float]:
    """The four measures of one region, given as labels 0 and 1 (Z, Y, X) of ``spacing`` (Z, Y, X) in mm.

    A region is measured as an object of its own: where it was cut from the gland is border too.
    """
    counts = label_counts(confusion_matrix(prediction, reference, len(VALUES)), 1)
    distances = surface_distances(prediction > 0, reference > 0, spacing)
    pooled = np.concatenate((distances.to_reference, distances.to_prediction))
    defined = counts.n_pred > 0 and counts.n_ref > 0
    return {
        "dice": counts.dice,
        "relative_volume_difference_percent": 100.0 * (counts.n_pred / counts.n_ref - 1.0),
        "average_boundary_distance_mm": float(pooled.mean(dtype=np.float64)) if defined else math.nan,
        "hausdorff_95_mm": distances.hausdorff_95 if defined else math.nan,
    }


def _summary(cases: list[dict[str, float]]) -> dict[str, float]:
    means = {measure: mean(case[measure] for case in cases) for measure in PERFECT}
    differences = [abs(case["relative_volume_difference_percent"]) for case in cases]
    return {
        **means,
        "absolute_volume_difference_percent": mean(differences),
        "without_distance": sum(math.isnan(case["hausdorff_95_mm"]) for case in cases),
    }


def score(regions: Mapping[str, Mapping[str, float]], observer: Mapping[str, Mapping[str, float]]) -> float:
    """A case's score: the mean of twelve, each on the line through 100 for perfect and 85 for the second observer.

    Undefined distances score 0.
    """
    scores = []
    for region in REGIONS:
        for measure, perfect in PERFECT.items():
            off = abs(regions[region][measure] - perfect) / abs(observer[region][measure] - perfect)
            points = 100.0 - (100.0 - OBSERVER_SCORE) * off
            scores.append(0.0 if math.isnan(points) else max(0.0, points))
    return float(np.mean(scores))


def read_observer(file: Path) -> dict[str, dict[str, float]]:
    """A second observer's mean measures, by region and measure.

    Raises
    ------
    InvalidData: no such file, a measure that is missing, no number, or perfect (no line goes through two equal points).
    """
    content = read_json(file)
    result: dict[str, dict[str, float]] = {}
    for region in REGIONS:
        given = content.get(region) if isinstance(content, dict) else None
        result[region] = {}
        for measure, perfect in PERFECT.items():
            value = given.get(measure) if isinstance(given, dict) else None
            number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
            if not math.isfinite(number) or number == perfect:
                raise InvalidData(
                    file,
                    f"{region}: {{{measure}: the second observer's mean}}",
                    f"{value!r}",
                    f"Give a number for each of {', '.join(PERFECT)} in each of {', '.join(REGIONS)}.",
                )
            result[region][measure] = float(number)
    return result
