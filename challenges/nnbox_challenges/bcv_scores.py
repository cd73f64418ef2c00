"""BCV's metrics per organ: Dice, average surface distance, Hausdorff distance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nnbox_challenges.bcv_layout import case_id, find_scans, label_numbers
from nnbox_challenges.layout import children, require_folder
from nnbox_challenges.scores import finite, label_files, mean, pair
from nnunet_box.dataset.cases import read_label
from nnunet_box.dataset.volumes import is_volume, read_header
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.metrics import confusion_matrix, label_counts, structure_distances
from nnunet_box.progress import track

METRICS = ("dice", "asd_mm", "hausdorff_mm")


def evaluate(predictions: Path, references: Path, labels: dict[int, str]) -> dict[str, Any]:
    """Score predictions whose names hold the case's number (``label0061.nii.gz``, ``img0061.nii.gz``).

    references: ``RawData`` or a folder in it, a folder of label maps, or a data set with ``labelsTr``. Per organ: mean
    over cases of Dice, average symmetric surface distance (mm) and Hausdorff distance (the maximum, mm); then the mean
    over organs. Arrays are compared voxel by voxel; spacing is the reference header's.

    An organ that the reference lacks is undefined (NaN) and left out (two training cases have no gallbladder). One that
    only the prediction lacks has Dice 0 and undefined distances, whose number is given.

    Raises
    ------
    InvalidData: no predictions, one without a reference, another shape, or a label that is not declared.
    """
    files = _reference_files(references)
    pairs = pair(label_numbers(label_files(predictions)), files)
    cases = [_case(*item, labels) for item in track(pairs, "Scoring")]
    organs = {name: _summary([case["organs"][name] for case in cases]) for value, name in labels.items() if value}
    return {
        "challenge": "bcv",
        "cases": len(cases),
        "missing": sorted(set(files) - {case for case, _, _ in pairs}),
        "organs": organs,
        "mean": {metric: mean(organ[metric] for organ in organs.values()) for metric in METRICS},
        "per_case": cases,
    }


def _reference_files(references: Path) -> dict[str, Path]:
    folder = require_folder(references)
    for place in (folder / "labelsTr", folder / "label", folder):
        if place.is_dir() and any(is_volume(path) for path in children(place)):
            return label_numbers(label_files(place))
    files = {case_id(number): file for number, file in find_scans(folder).labels.items()}
    if not files:
        raise InvalidData(folder, "label maps (labelNNNN.nii.gz)", "images only", "Give the folder that holds label.")
    return files


def _case(case: str, prediction_file: Path, reference_file: Path, labels: dict[int, str]) -> dict[str, Any]:
    reference = read_label(reference_file, set(labels), reference_file)
    prediction = read_label(prediction_file, set(labels), reference_file)
    matrix = confusion_matrix(prediction, reference, max(labels) + 1)
    organs = [value for value in labels if value]
    distances = structure_distances(prediction, reference, organs, read_header(reference_file)[0].spacing)
    scores = {}
    for value in organs:
        counts = label_counts(matrix, value)
        if counts.n_ref:
            values = (counts.dice, finite(distances[value].assd), finite(distances[value].hausdorff))
        else:
            values = (math.nan, math.nan, math.nan)
        scores[labels[value]] = {**dict(zip(METRICS, values, strict=True)), "in_reference": bool(counts.n_ref)}
    return {"case": case, "organs": scores}


def _summary(scores: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "cases": sum(score["in_reference"] for score in scores),
        **{metric: mean(score[metric] for score in scores) for metric in METRICS},
        "without_distance": sum(score["in_reference"] and math.isnan(score["asd_mm"]) for score in scores),
    }
