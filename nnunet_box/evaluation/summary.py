"""Cross-validation summaries in nnU-Net v2's ``summary.json`` schema."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.volumes import read_volume
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.metrics import Counts, confusion_matrix, label_counts
from nnunet_box.evaluation.nearest import Spacing
from nnunet_box.files import read_json, write_json
from nnunet_box.progress import track

Summary = dict[str, Any]
Pair = tuple[str, Path, Path]
"""Case id, prediction file, reference file."""

HIGHEST_LABEL = 255
METRICS = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref")


def read_label_map(file: Path, declared: Iterable[int] | None = None) -> tuple[NDArray[np.uint8], Spacing]:
    """A label map (Z, Y, X) and its spacing (Z, Y, X) in mm, slice by slice to uint8.

    Float files are taken where every value is integral, as some references are stored that way.

    Raises
    ------
    InvalidData: missing or corrupt, not 3-D, values that are not integers from 0 to 255, or not in ``declared``.
    """
    volume = read_volume(file)
    array = volume.array
    if array.ndim != 3:
        raise InvalidData(file, "a 3-D label map", f"{array.shape[0]} channels", "Give one label map a case.")
    labels = np.empty(array.shape, dtype=np.uint8)
    seen = np.zeros(HIGHEST_LABEL + 1, dtype=bool)
    for index, plane in enumerate(array):
        # NaN fails every comparison, so it is refused here as well.
        if not (plane.min() >= 0 and plane.max() <= HIGHEST_LABEL):
            raise InvalidData(
                file,
                f"label values from 0 to {HIGHEST_LABEL}",
                f"{plane.min()} to {plane.max()} in slice {index}",
                "Give label maps, not images.",
            )
        labels[index] = plane
        if plane.dtype != np.uint8 and np.any(labels[index] != plane):
            raise InvalidData(
                file,
                "integral label values",
                f"{plane[labels[index] != plane][0]}",
                "Export the label map without interpolation.",
            )
        seen |= np.bincount(labels[index].ravel(), minlength=seen.size) > 0
    unknown = sorted({int(value) for value in np.flatnonzero(seen)} - {0, *declared}) if declared is not None else []
    if unknown:
        raise InvalidData(
            file,
            f"labels {sorted({0, *(declared or ())})}",
            f"undeclared {unknown}",
            "Correct the label map or declare the value.",
        )
    return labels, volume.geometry.spacing


def read_pair(
    prediction: Path, reference: Path, declared: Iterable[int] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Spacing]:
    """Prediction and reference (Z, Y, X) and the reference's spacing; arrays decide, as in the challenges' own scorers.

    Raises
    ------
    InvalidData: as ``read_label_map``, or the shapes differ.
    """
    theirs, spacing = read_label_map(reference, declared)
    ours, _ = read_label_map(prediction, declared)
    if ours.shape != theirs.shape:
        raise InvalidData(
            prediction, f"shape {theirs.shape} as {reference}", f"{ours.shape}", "Predict on the reference's grid."
        )
    return ours, theirs, spacing


def case_metrics(counts: Counts) -> dict[str, float | int]:
    """The metrics of one structure in one case, under nnU-Net v2's names."""
    values = (counts.dice, counts.iou, counts.tp, counts.fp, counts.fn, counts.tn, counts.n_pred, counts.n_ref)
    return dict(zip(METRICS, values, strict=True))


def case_entry(prediction: Path, reference: Path, matrix: NDArray[np.int64], labels: Sequence[int]) -> dict[str, Any]:
    """One element of ``metric_per_case``."""
    metrics = {str(label): case_metrics(label_counts(matrix, label)) for label in labels}
    return {"metrics": metrics, "prediction_file": str(prediction), "reference_file": str(reference)}


def summarise_cases(entries: Sequence[dict[str, Any]], labels: Sequence[int]) -> Summary:
    """Means over cases and over structures.

    Per structure the mean leaves out cases where prediction and reference are both empty. ``foreground_mean`` is the
    mean of these means; unlike nnU-Net v2, which then has NaN, a structure that occurs in no case at all is left out of
    it too.
    """
    mean = {
        str(label): {name: nan_mean([entry["metrics"][str(label)][name] for entry in entries]) for name in METRICS}
        for label in labels
    }
    foreground = {name: nan_mean([mean[str(label)][name] for label in labels]) for name in METRICS}
    return {"foreground_mean": foreground, "mean": mean, "metric_per_case": list(entries)}


def summarise_pairs(pairs: Iterable[Pair], labels: Iterable[int]) -> Summary:
    """Compare predictions with references, one case in memory at a time.

    Parameters
    ----------
    pairs: (case id, prediction file, reference file).
    labels: the data set's label values, or its mapping from value to name; 0, the background, is not scored.

    Raises
    ------
    InvalidData: a file is missing or corrupt, holds undeclared labels, or the shapes of a pair differ.
    """
    foreground = foreground_labels(labels)
    entries = []
    for _, prediction, reference in track(list(pairs), "evaluating"):
        ours, theirs, _ = read_pair(prediction, reference, foreground)
        entries.append(
            case_entry(prediction, reference, confusion_matrix(ours, theirs, max(foreground) + 1), foreground)
        )
    return summarise_cases(entries, foreground)


def write_summary(summary: Summary, path: Path) -> None:
    """Write ``summary.json``, whole or not at all; undefined values are plain ``NaN``, as nnU-Net v2 writes them."""
    write_json(path, summary)


def read_summary(path: Path) -> Summary:
    """A ``summary.json`` as ``write_summary`` leaves it.

    Raises
    ------
    InvalidData: missing, or not one.
    """
    summary: Summary = read_json(path)
    try:
        summary_dice(summary)
        for label in summary["mean"]:
            summary_dice(summary, int(label))
    except (KeyError, TypeError, ValueError) as error:
        fix = "Delete it and run the step that writes it again."
        raise InvalidData(path, "a summary of metrics", f"no {error}", fix) from error
    return summary


def summary_dice(summary: Summary, label: int | None = None) -> float:
    """Mean Dice of one label over the cases, or, without a label, the mean foreground Dice."""
    means = summary["foreground_mean"] if label is None else summary["mean"][str(label)]
    return float(means["Dice"])


def foreground_labels(labels: Iterable[int]) -> tuple[int, ...]:
    """Sorted label values without the background.

    Raises
    ------
    InvalidData: there is none.
    """
    foreground = tuple(sorted({int(label) for label in labels} - {0}))
    if not foreground:
        raise InvalidData(
            "labels", "at least one label beside background", "none", "Declare the structures in dataset.json."
        )
    return foreground


def nan_mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN, without a warning, where none is left."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
