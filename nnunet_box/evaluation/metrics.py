"""Overlap and surface metrics of label maps: one pass over the voxels, surfaces only inside the structures' boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_box.boxes import Box, label_boxes
from nnunet_box.evaluation.nearest import Spacing, nearest_mm

__all__ = ["Box", "label_boxes"]

VOXELS_AT_A_TIME = 1 << 22
"""Voxels counted together: joint indices are 8 bytes each, so a step needs 32 MB whatever the volume's size."""


@dataclass(frozen=True)
class Counts:
    """Voxels of one structure: true and false positives and negatives of a prediction against its reference."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n_pred(self) -> int:
        return self.tp + self.fp

    @property
    def n_ref(self) -> int:
        return self.tp + self.fn

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN where neither side holds the structure, 0 where only one does (as nnU-Net)."""
        return 2 * self.tp / (self.n_pred + self.n_ref) if self.n_pred + self.n_ref else float("nan")

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); NaN where neither side holds the structure."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else float("nan")


def confusion_matrix(prediction: NDArray[np.uint8], reference: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Voxels by (reference label, prediction label), all labels in one pass.

    Parameters
    ----------
    prediction, reference: label maps (Z, Y, X) with values below ``classes``.

    Raises
    ------
    ValueError: the shapes differ, or a value is not below ``classes``.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    matrix = np.zeros(classes * classes, dtype=np.int64)
    slices = max(1, VOXELS_AT_A_TIME // max(1, int(np.prod(reference.shape[1:]))))
    for start in range(0, reference.shape[0], slices):
        rows, columns = reference[start : start + slices].ravel(), prediction[start : start + slices].ravel()
        # A value too high would be counted as another pair of labels: the index is shared.
        if rows.size and max(int(rows.max()), int(columns.max())) >= classes:
            raise ValueError(f"label values must be below {classes}")
        matrix += np.bincount(rows.astype(np.intp) * classes + columns, minlength=classes * classes)
    return matrix.reshape(classes, classes)


def label_counts(matrix: NDArray[np.int64], label: int) -> Counts:
    """Counts of one label from a confusion matrix (reference, prediction); a label beyond the matrix occurs nowhere."""
    total = int(matrix.sum())
    if label >= len(matrix):
        return Counts(0, 0, 0, total)
    tp = int(matrix[label, label])
    n_ref, n_pred = int(matrix[label].sum()), int(matrix[:, label].sum())
    return Counts(tp, n_pred - tp, n_ref - tp, total - n_pred - n_ref + tp)


def union_box(boxes: Iterable[Box | None]) -> Box | None:
    """The smallest box around all boxes; None where there is none."""
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    z, y, x = (slice(min(box[axis].start for box in found), max(box[axis].stop for box in found)) for axis in range(3))
    return z, y, x


def crop_pair(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two masks (Z, Y, X) cropped to the box around both; no voxels where both are empty.

    Raises
    ------
    ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(prediction.any(axis=others) | reference.any(axis=others))
        start, stop = (int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else (0, 0)
        window = tuple(slice(start, stop) if other == axis else slice(None) for other in range(3))
        prediction, reference = prediction[window], reference[window]
    return prediction, reference


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm from each border voxel of one side to the nearest border voxel of the other, as medpy measures.

    ``to_reference`` holds one value a border voxel of the prediction, ``to_prediction`` one a border voxel of the
    reference. With both sides empty every metric is NaN: there is nothing to judge. With one side empty the distances
    are infinite; a challenge that counts such a case otherwise says so in its adapter. Surface Dice is not defined on
    voxels: see ``surfels``.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]

    @property
    def hausdorff(self) -> float:
        """Hausdorff distance in mm: the largest distance in either direction, as medpy's ``hd``."""
        if (undefined := undefined_distance(self.to_reference, self.to_prediction)) is not None:
            return undefined
        return float(max(self.to_reference.max(), self.to_prediction.max()))

    @property
    def hausdorff_95(self) -> float:
        """95th percentile in mm of the distances of both directions together, as medpy's ``hd95``."""
        if (undefined := undefined_distance(self.to_reference, self.to_prediction)) is not None:
            return undefined
        return float(np.percentile(np.concatenate((self.to_reference, self.to_prediction)), 95))

    hd95 = hausdorff_95

    @property
    def assd(self) -> float:
        """Average symmetric surface distance in mm: the mean over the voxels of both borders together (Heimann et al.,
        IEEE TMI 28(8), 2009), as medpy's ``assd`` since 0.5; it took the mean of the directions' means before.
        """
        if (undefined := undefined_distance(self.to_reference, self.to_prediction)) is not None:
            return undefined
        return float(np.concatenate((self.to_reference, self.to_prediction)).mean())

    @property
    def rmsd(self) -> float:
        """Root mean square symmetric surface distance in mm, over the voxels of both borders together (Heimann)."""
        if (undefined := undefined_distance(self.to_reference, self.to_prediction)) is not None:
            return undefined
        return float(np.sqrt(np.mean(np.concatenate((self.to_reference, self.to_prediction)) ** 2)))


def undefined_distance(to_reference: NDArray[np.float64], to_prediction: NDArray[np.float64]) -> float | None:
    """What every distance is where a side has no surface: NaN where neither has, else infinite; None where both
    have.
    """
    if to_reference.size and to_prediction.size:
        return None
    return float("inf") if to_reference.size or to_prediction.size else float("nan")


def border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask (Z, Y, X) with a face neighbour outside it, as medpy; beyond the array's edge is outside."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1, 1:-1] = mask[1:-1, 1:-1, 1:-1]
    core = inner[1:-1, 1:-1, 1:-1]
    for axis in range(3):
        for side in (slice(None, -2), slice(2, None)):
            window = [slice(1, -1)] * 3
            window[axis] = side
            core &= mask[tuple(window)]
    return mask & ~inner


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing
) -> SurfaceDistances:
    """Border distances between two masks (Z, Y, X) with voxels of ``spacing`` (Z, Y, X) in mm.

    The masks are cropped to the box around both, which changes nothing: outside it there is no border of either.

    Raises
    ------
    ValueError: the shapes differ.
    """
    ours, theirs = (border(mask) for mask in crop_pair(prediction, reference))
    return SurfaceDistances(nearest_mm(ours, theirs, spacing), nearest_mm(theirs, ours, spacing))


def structure_distances(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], labels: Iterable[int], spacing: Spacing
) -> dict[int, SurfaceDistances]:
    """Border distances of each label of two label maps (Z, Y, X); masks are made inside each structure's box only.

    Raises
    ------
    ValueError: the shapes differ.
    """
    pairs = structure_masks(prediction, reference, labels)
    return {label: surface_distances(*masks, spacing) for label, masks in pairs}


def structure_masks(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], labels: Iterable[int]
) -> Iterator[tuple[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]]]:
    """Each label with its masks in two label maps (Z, Y, X), cropped to the box around both; empty where it is in
    neither.

    Raises
    ------
    ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    ours, theirs = label_boxes(prediction), label_boxes(reference)
    for label in labels:
        box = union_box([ours.get(label), theirs.get(label)]) or (slice(0, 0), slice(0, 0), slice(0, 0))
        yield label, (prediction[box] == label, reference[box] == label)
