"""ACDC's metrics, as its organisers' Python script and Bernard et al. 2018 define them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from nnbox_challenges.acdc_layout import PHASES, find_patients
from nnbox_challenges.layout import children, require_folder
from nnbox_challenges.scores import agreement, finite, label_files, mean, pair
from nnunet_box.dataset.cases import read_label
from nnunet_box.dataset.volumes import is_volume, read_header
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.metrics import confusion_matrix, label_counts, structure_distances
from nnunet_box.progress import track

MM3_PER_ML = 1000.0
GRAMS_PER_ML = 1.05
"""Density of the myocardium, as cardiac MRI takes it (the organisers' paper gives masses, not the figure)."""

CAVITIES = ("left ventricle", "right ventricle")
"""Structures with an ejection fraction."""


def evaluate(predictions: Path, references: Path, labels: dict[int, str]) -> dict[str, Any]:
    """Score predictions named ``patientNNN_ED.nii.gz`` and ``patientNNN_ES.nii.gz``.

    references: an ACDC folder with ``_gt`` files, or a folder of label maps named as the predictions. Arrays are
    compared voxel by voxel; spacing is the reference header's ``pixdim``. Per structure and phase: Dice, Hausdorff (the
    maximum, mm), average symmetric surface distance (mm), volume in ml with bias (predicted - reference), correlation
    and 95 % limits of agreement. Per cavity: ejection fraction in percent, 100 (EDV - ESV) / EDV. The myocardium's mass
    in grams, from its volume at end of diastole.

    Where neither side holds a structure, Dice is 1 and distances 0, as the organisers count; where one does, Dice is 0
    and distances are undefined (NaN) and left out of the mean (the organisers' placeholder would flatter it), with
    their number given.

    Raises
    ------
    InvalidData: no predictions, one without a reference, another shape, or a label that is not declared.
    """
    files = reference_files(references)
    pairs = pair(label_files(predictions), files)
    cases = [_case(*item, labels) for item in track(pairs, "Scoring")]
    patients = _ejection_fractions(cases)
    names = [name for value, name in sorted(labels.items()) if value]
    structures = {name: {phase: _summary(cases, name, phase) for phase in PHASES} for name in names}
    return {
        "challenge": "acdc",
        "cases": len(cases),
        "missing": sorted(set(files) - {case for case, _, _ in pairs}),
        "structures": structures,
        "ejection_fraction": {
            name: agreement([p[name]["predicted"] for p in patients], [p[name]["reference"] for p in patients])
            for name in CAVITIES
        },
        "myocardial_mass_g": _mass(cases),
        "mean": {"dice": mean(structures[name][phase]["dice"] for name in names for phase in PHASES)},
        "per_case": cases,
        "per_patient": patients,
    }


def reference_files(references: Path) -> dict[str, Path]:
    """Reference label maps by ``patientNNN_PHASE``.

    Raises
    ------
    InvalidData: neither label maps named so nor patients with ``_gt`` files.
    """
    folder = require_folder(references)
    if any(is_volume(path) and path.is_file() for path in children(folder)):
        return label_files(folder)
    if (folder / "labelsTr").is_dir():
        return label_files(folder / "labelsTr")
    found = {
        f"{patient.id}_{phase}": patient.references[frame]
        for patient in find_patients(folder)
        if patient.references
        for phase, frame in patient.phases().items()
        if frame in patient.references
    }
    if not found:
        raise InvalidData(
            folder,
            "references (patientNNN_frameFF_gt.nii.gz)",
            "none",
            "Give the folder testing of the current release, which has them.",
        )
    return found


def _case(case: str, prediction_file: Path, reference_file: Path, labels: dict[int, str]) -> dict[str, Any]:
    reference = read_label(reference_file, set(labels), reference_file)
    prediction = read_label(prediction_file, set(labels), reference_file)
    spacing = read_header(reference_file)[0].spacing
    voxel_ml = float(np.prod(spacing)) / MM3_PER_ML
    matrix = confusion_matrix(prediction, reference, max(labels) + 1)
    foreground = [value for value in labels if value]
    distances = structure_distances(prediction, reference, foreground, spacing)
    scores = {}
    for value in foreground:
        counts = label_counts(matrix, value)
        empty = counts.n_pred + counts.n_ref == 0
        scores[labels[value]] = {
            "dice": 1.0 if empty else counts.dice,
            "hausdorff_mm": 0.0 if empty else finite(distances[value].hausdorff),
            "assd_mm": 0.0 if empty else finite(distances[value].assd),
            "volume_ml": counts.n_pred * voxel_ml,
            "reference_volume_ml": counts.n_ref * voxel_ml,
        }
    patient, _, phase = case.rpartition("_")
    return {"case": case, "patient": patient, "phase": phase, "structures": scores}


def _summary(cases: list[dict[str, Any]], name: str, phase: str) -> dict[str, Any]:
    scores = [case["structures"][name] for case in cases if case["phase"] == phase]
    distances = [score["hausdorff_mm"] for score in scores]
    return {
        "cases": len(scores),
        "dice": mean(score["dice"] for score in scores),
        "hausdorff_mm": mean(distances),
        "assd_mm": mean(score["assd_mm"] for score in scores),
        "without_distance": sum(math.isnan(distance) for distance in distances),
        "volume_ml": agreement([s["volume_ml"] for s in scores], [s["reference_volume_ml"] for s in scores]),
    }


def _mass(cases: list[dict[str, Any]]) -> dict[str, float]:
    scores = [case["structures"]["myocardium"] for case in cases if case["phase"] == "ED"]
    predicted, reference = (
        [GRAMS_PER_ML * score[key] for score in scores] for key in ("volume_ml", "reference_volume_ml")
    )
    return agreement(predicted, reference)


def _ejection_fractions(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Predicted and reference ejection fraction of each cavity, of the patients with both phases."""
    structures = {case["case"]: case["structures"] for case in cases}
    patients = []
    for patient in sorted({case["patient"] for case in cases}):
        phases = [structures.get(f"{patient}_{phase}") for phase in PHASES]
        if None in phases:
            continue
        fractions = {
            name: {
                side: _fraction(*(phase[name][key] for phase in phases if phase is not None))
                for side, key in (("predicted", "volume_ml"), ("reference", "reference_volume_ml"))
            }
            for name in CAVITIES
        }
        patients.append({"patient": patient, **fractions})
    return patients


def _fraction(diastole_ml: float, systole_ml: float) -> float:
    return 100.0 * (diastole_ml - systole_ml) / diastole_ml if diastole_ml > 0 else math.nan
