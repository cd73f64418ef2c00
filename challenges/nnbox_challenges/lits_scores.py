"""LiTS's metrics, as its organisers' scorer of 2017 computes them (PatrickChrist/lits-challenge-scoring), or without
its quirks.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnbox_challenges.layout import require_folder
from nnbox_challenges.lits_layout import parse
from nnbox_challenges.lits_lesions import Lesions, detect, find_lesions
from nnbox_challenges.scores import label_files, mean, pair
from nnunet_box.dataset.cases import read_label
from nnunet_box.dataset.volumes import read_header, strip_suffix
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.metrics import label_boxes, union_box
from nnunet_box.evaluation.nearest import Spacing
from nnunet_box.progress import track

LIVER, TUMOUR = 1, 2
LARGE = 9001.0
"""What the organisers write where a value does not exist."""

OVERLAPS = {"": 0.5, "_greater_zero": 0.0}
"""A lesion is detected where the overlap (intersection over union) is larger; the suffixes are the organisers'."""

SEGMENTATION = ("dice", "jaccard", "voe", "rvd", "assd", "rmsd", "msd")
NOTHING = {"dice": 0.0, "jaccard": 0.0, "voe": 1.0, "rvd": LARGE, "assd": LARGE, "rmsd": LARGE, "msd": LARGE}
EIGHTEEN = ndimage.generate_binary_structure(3, 2)


def evaluate(predictions: Path, references: Path, declared: set[int], official: bool) -> dict[str, Any]:
    """Score predictions against references of the same number, whatever of LiTS's names they carry.

    Liver is label 1 or 2, a lesion a 6-connected component of label 2; arrays are compared voxel by voxel, spacing is
    the reference header's. Dice per case and global of both. Lesions detected at overlap > 0.5 and > 0: precision and
    recall over all cases; of those detected at 0.5, and of the liver: Dice, Jaccard, VOE, RVD, and in mm ASSD, RMSD and
    MSD (the largest), over border voxels of the 18-neighbourhood. Tumour burden is the lesions' share of the liver.

    official: as the scorer counts. What does not exist is 9001; RVD is (reference - prediction) / prediction; the
    largest burden error is the largest signed one, reference - prediction; detection as ``lits_lesions`` says. Of a
    reference without a lesion, at which the scorer crashes, every predicted lesion is a false positive.
    Otherwise: what does not exist is NaN, left out of means, and counted; RVD is (prediction - reference) / reference;
    the largest burden error is the largest absolute one.

    Raises
    ------
    InvalidData: no predictions, one without a reference, another shape, or a label that is not declared.
    """
    files = _by_case(references)
    pairs = pair(_by_case(predictions), files)
    cases = [_case(*item, declared, official) for item in track(pairs, "Scoring")]
    return {
        "challenge": "lits",
        "mode": "official" if official else "clean",
        "cases": len(cases),
        "missing": sorted(set(files) - {case for case, _, _ in pairs}),
        "lesion": {**_overlap(cases, "lesion"), **_detection(cases, official), **_surface(cases, "lesions", official)},
        "liver": {**_overlap(cases, "liver"), **_surface(cases, "liver_scores", official)},
        "tumour_burden": _burden([case["burden_error"] for case in cases], official),
        "per_case": cases,
    }


def _by_case(folder: Path) -> dict[str, Path]:
    """Label maps by ``N`` or ``test-N``: segmentation-N, test-segmentation-N or, as in a data set, volume-N."""
    folder = require_folder(folder)
    if (folder / "labelsTr").is_dir():
        folder = folder / "labelsTr"
    try:
        found = list(label_files(folder).values())
    except InvalidData:
        from nnbox_challenges.lits_layout import find_files

        below = find_files(folder)
        found = [*below.segmentations.values(), *below.test_segmentations.values()]
        if not found:
            raise
    by_case: dict[str, Path] = {}
    images = {key for file in found if (key := parse(strip_suffix(file))) and not key[1]}
    for file in found:
        key = parse(strip_suffix(file))
        if key is None:
            raise InvalidData(file, "segmentation-N or test-segmentation-N", file.name, "Rename or remove it.")
        # Beside its segmentation a volume is the image, alone it is a label map named as its case.
        if key[1] and (key[0], False, key[2]) in images:
            continue
        by_case[f"{'test-' if key[0] else ''}{key[2]}"] = file
    return by_case


def _case(case: str, prediction_file: Path, reference_file: Path, declared: set[int], official: bool) -> dict[str, Any]:
    reference = read_label(reference_file, declared, reference_file)
    prediction = read_label(prediction_file, declared, reference_file)
    spacing = read_header(reference_file)[0].spacing
    livers, tumours = (prediction >= LIVER, reference >= LIVER), (prediction == TUMOUR, reference == TUMOUR)
    # As the organisers ask it: a prediction of lesions alone has no liver.
    liver_exists = bool((prediction == LIVER).any())
    lesions = find_lesions(prediction, reference, TUMOUR)
    detections = {suffix: detect(lesions, overlap, official) for suffix, overlap in OVERLAPS.items()}
    counts = {name: _counts(*masks) for name, masks in (("lesion", tumours), ("liver", livers))}
    return {
        "case": case,
        "lesion": {"dice": _dice(counts["lesion"], True, official), **counts["lesion"]},
        "liver": {"dice": _dice(counts["liver"], liver_exists or not official, official), **counts["liver"]},
        "detection": {suffix: found.counts for suffix, found in detections.items()},
        "lesions": [
            _structure(*_masks(lesions, ours, theirs), spacing, official) for ours, theirs in detections[""].pairs
        ],
        "liver_scores": [
            _structure(*livers, spacing, official) if liver_exists or not official else dict(NOTHING),
        ],
        "burden_error": _burden_error(counts, liver_exists, official),
    }


def _counts(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> dict[str, int]:
    both, ours, theirs = (int(np.count_nonzero(mask)) for mask in (prediction & reference, prediction, reference))
    return {"both": both, "predicted": ours, "reference": theirs}


def _dice(counts: dict[str, int], exists: bool, official: bool) -> float:
    total = counts["predicted"] + counts["reference"]
    if not exists:
        return 0.0
    return 2 * counts["both"] / total if total else (1.0 if official else math.nan)


def _masks(lesions: Lesions, ours: list[int], theirs: list[int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return np.isin(lesions.predicted, ours), np.isin(lesions.reference, theirs)


def _structure(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing, official: bool
) -> dict[str, float]:
    """Segmentation scores of one structure (Z, Y, X); see ``evaluate`` for what is done where a side is empty."""
    box = union_box([label_boxes(mask.view(np.uint8)).get(1) for mask in (prediction, reference)])
    if box is None or not prediction.any() or not reference.any():
        if official:
            return dict(NOTHING)
        scores = dict.fromkeys(SEGMENTATION, math.nan)
        return scores if box is None else {**scores, "dice": 0.0, "jaccard": 0.0, "voe": 1.0}
    prediction, reference = prediction[box], reference[box]
    counts = _counts(prediction, reference)
    ours, theirs = counts["predicted"], counts["reference"]
    dice = 2 * counts["both"] / (ours + theirs)
    jaccard = dice / (2 - dice)
    distances = _distances(prediction, reference, spacing)
    return {
        "dice": dice,
        "jaccard": jaccard,
        "voe": 1 - jaccard,
        "rvd": (theirs - ours) / ours if official else (ours - theirs) / theirs,
        "assd": float(distances.mean()),
        "rmsd": float(np.sqrt(np.mean(distances**2))),
        "msd": float(distances.max()),
    }


def _distances(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """Distances in mm from the border voxels of each side to the other's nearest, both directions in one list."""
    borders = [mask & ~ndimage.binary_erosion(mask, EIGHTEEN) for mask in (prediction, reference)]
    values = [
        edt.edt(np.ascontiguousarray(~there), anisotropy=spacing, black_border=False, parallel=1)[here]
        for here, there in (borders, borders[::-1])
    ]
    return np.concatenate(values).astype(np.float64)


def _overlap(cases: list[dict[str, Any]], name: str) -> dict[str, float]:
    both = sum(case[name]["both"] for case in cases)
    total = sum(case[name]["predicted"] + case[name]["reference"] for case in cases)
    return {
        "dice_per_case": mean(case[name]["dice"] for case in cases),
        "dice_global": 2 * both / total if total else math.nan,
    }


def _detection(cases: list[dict[str, Any]], official: bool) -> dict[str, float]:
    empty = 0.0 if official else math.nan
    scores = {}
    for suffix in OVERLAPS:
        tp, fp, fn = (sum(case["detection"][suffix][key] for case in cases) for key in ("tp", "fp", "fn"))
        scores[f"precision{suffix}"] = tp / (tp + fp) if tp + fp else empty
        scores[f"recall{suffix}"] = tp / (tp + fn) if tp + fn else empty
    return scores


def _surface(cases: list[dict[str, Any]], key: str, official: bool) -> dict[str, float]:
    """Means over lesions, or over the cases' livers, and in how many of them a value does not exist."""
    structures = [scores for case in cases for scores in case[key]]
    if not structures:
        return {**(NOTHING if official else dict.fromkeys(SEGMENTATION, math.nan)), "structures": 0}
    means = {metric: mean(scores[metric] for scores in structures) for metric in SEGMENTATION}
    undefined = sum(math.isnan(scores["assd"]) or scores["assd"] == LARGE for scores in structures)
    return {**means, "structures": len(structures), "without_distance": undefined}


def _burden_error(counts: dict[str, dict[str, int]], liver_exists: bool, official: bool) -> float:
    """Tumour burden of the reference - of the prediction."""

    def burden(side: str) -> float:
        liver = counts["liver"][side]
        return counts["lesion"][side] / liver if liver else math.nan

    if official and not liver_exists:
        return burden("reference") - LARGE
    return burden("reference") - burden("predicted")


def _burden(errors: list[float], official: bool) -> dict[str, float]:
    defined = [error for error in errors if not math.isnan(error)]
    return {
        "rmse": math.sqrt(mean(error**2 for error in defined)) if defined else math.nan,
        "max": max(defined if official else [abs(error) for error in defined], default=math.nan),
        "without_liver": sum(math.isnan(error) or error <= 1 - LARGE for error in errors),
    }
