"""The MS lesion challenge's scores: overlap of voxels, detection of lesions, volumes, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from nnbox_challenges.ms_lesions_layout import all_scans, scan_of_name
from nnbox_challenges.scores import agreement, label_files, mean, pair
from nnunet_box.dataset.cases import read_label
from nnunet_box.dataset.volumes import read_header
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.metrics import confusion_matrix, label_counts
from nnunet_box.progress import track

MM3_PER_ML = 1000.0
METRICS = ("dice", "ppv", "lfpr", "ltpr", "jaccard", "tpr", "volume_difference")
WEIGHTS = {"dice": 1 / 8, "ppv": 1 / 8, "lfpr": 1 / 4, "ltpr": 1 / 4, "correlation": 1 / 4}
"""Of the sum (Carass et al. 2017, as third parties' code has it); ``lfpr`` counts as 1 - LFPR."""

Connectivity = Literal[6, 18, 26]
ONLY_RATER = "reference"


def evaluate(predictions: Path, references: Path, connectivity: Connectivity) -> dict[str, Any]:
    """Score predictions named after their scan (``training01_02_...``), against each rater and averaged over raters.

    references: a folder with ``..._mask1.nii`` and ``..._mask2.nii`` at any depth, or label maps named after their
    scan. Two predictions of a scan, one a rater's training example, count once. connectivity: 6, 18 or 26 neighbours
    make a lesion.

    Per image and rater: Dice, Jaccard, PPV and TPR of voxels; LTPR, the share of the reference's lesions that any
    predicted voxel touches; LFPR, the share of the *predicted* lesions that touch no reference voxel (a false discovery
    rate); |P - R| / R of the volumes. Per rater: Pearson's correlation of lesion volumes over the images.
    ``weighted_score`` is the plain sum Dice/8 + PPV/8 + (1 - LFPR)/4 + LTPR/4 + correlation/4, from 0 to 1. The website
    puts it on a scale where about 90 is a second rater; how is not published, so it is not done here.

    What has an empty denominator is undefined (NaN), left out of its mean and counted under ``undefined``. In the
    weighted sum it counts 0 where one side of an image is empty; where both are, the image is left out.

    Raises
    ------
    InvalidData: no predictions, one without a reference, another shape, or a label that is not declared.
    """
    found = _predictions(predictions)
    by_rater = _references(references)
    every = {scan: file for files in by_rater.values() for scan, file in files.items()}
    pair(found, every)
    cases = [
        {"case": scan, "rater": rater, **_case(prediction, reference, connectivity)}
        for rater, files in by_rater.items()
        for scan, prediction, reference in track(
            pair({scan: file for scan, file in found.items() if scan in files}, files), f"Scoring against {rater}"
        )
    ]
    raters = {rater: _rater([case for case in cases if case["rater"] == rater]) for rater in by_rater}
    raters = {rater: scores for rater, scores in raters.items() if scores["images"]}
    names = (*METRICS, "correlation", "weighted_score")
    return {
        "challenge": "ms_lesions",
        "cases": len(found),
        "missing": sorted(set(every) - set(found)),
        "connectivity": connectivity,
        "mean": {name: mean(scores[name] for scores in raters.values()) for name in names},
        "raters": raters,
        "per_case": cases,
    }


def _predictions(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, file in label_files(folder).items():
        scan = scan_of_name(name)
        if scan is None:
            raise InvalidData(file, "a name that begins with its scan's, test01_01", name, "Rename the prediction.")
        found.setdefault(scan[0], file)
    return found


def _references(folder: Path) -> dict[str, dict[str, Path]]:
    """Rater to scan to file."""
    result: dict[str, dict[str, Path]] = {}
    for scan in all_scans(folder):
        for rater, file in scan.masks.items():
            result.setdefault(f"rater {rater}", {})[scan.id] = file
    if not result:
        place = Path(folder) / "labelsTr"
        for name, file in label_files(place if place.is_dir() else Path(folder)).items():
            named = scan_of_name(name)
            if named is not None:
                result.setdefault(ONLY_RATER, {})[named[0]] = file
    if not result:
        raise InvalidData(folder, "masks (trainingPP_TT_mask1.nii)", "none", "Give the download's training folder.")
    return dict(sorted(result.items()))


def lesion_rates(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], connectivity: Connectivity
) -> tuple[float, float]:
    """(LTPR, LFPR) of two masks (Z, Y, X): the share of reference lesions that a predicted voxel touches, and of
    predicted lesions that touch no reference voxel. NaN where there are no such lesions.
    """
    true_positive = _share_touched(reference, prediction, connectivity)
    return true_positive, 1.0 - _share_touched(prediction, reference, connectivity)


def _share_touched(lesions: NDArray[np.bool_], other: NDArray[np.bool_], connectivity: Connectivity) -> float:
    labels, count = cc3d.connected_components(lesions, connectivity=connectivity, return_N=True)
    touched = np.unique(labels[other & lesions])
    return len(touched) / count if count else math.nan


def _case(prediction_file: Path, reference_file: Path, connectivity: Connectivity) -> dict[str, Any]:
    reference = read_label(reference_file, {0, 1}, reference_file)
    prediction = read_label(prediction_file, {0, 1}, reference_file)
    counts = label_counts(confusion_matrix(prediction, reference, 2), 1)
    ltpr, lfpr = lesion_rates(prediction == 1, reference == 1, connectivity)
    voxel_ml = float(np.prod(read_header(reference_file)[0].spacing)) / MM3_PER_ML
    return {
        "dice": counts.dice,
        "ppv": _ratio(counts.tp, counts.n_pred),
        "lfpr": lfpr,
        "ltpr": ltpr,
        "jaccard": counts.iou,
        "tpr": _ratio(counts.tp, counts.n_ref),
        "volume_difference": _ratio(abs(counts.n_pred - counts.n_ref), counts.n_ref),
        "volume_ml": counts.n_pred * voxel_ml,
        "reference_volume_ml": counts.n_ref * voxel_ml,
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _rater(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    volumes = agreement([case["volume_ml"] for case in cases], [case["reference_volume_ml"] for case in cases])
    correlation = volumes["correlation"]
    return {
        "images": len(cases),
        **{name: mean(case[name] for case in cases) for name in METRICS},
        "correlation": correlation,
        "weighted_score": mean(_weighted(case) for case in cases) + WEIGHTS["correlation"] * correlation,
        "volume_ml": volumes,
        "undefined": {name: sum(math.isnan(case[name]) for case in cases) for name in METRICS},
    }


def _weighted(case: dict[str, Any]) -> float:
    """An image's share of the weighted sum; NaN where neither side has a lesion."""
    if case["volume_ml"] == case["reference_volume_ml"] == 0:
        return math.nan
    terms = {**case, "lfpr": 1.0 - case["lfpr"]}
    return sum(WEIGHTS[name] * (0.0 if math.isnan(terms[name]) else terms[name]) for name in case if name in WEIGHTS)
