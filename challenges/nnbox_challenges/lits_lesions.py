"""Which predicted lesion is which reference lesion, as LiTS's organisers match them.

Reference lesions bridged by one prediction become one; each prediction goes to the reference it overlaps most;
predictions that go to one reference become one. What is matched is detected where its overlap is large enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_box.evaluation.metrics import label_boxes, union_box

BYTE = 256
"""The organisers keep matched reference ids in 8 bits: the ids of a case with more lesions wrap."""


@dataclass(frozen=True)
class Lesions:
    """Components (Z, Y, X) of both sides, numbered from 1 in the organisers' order, and what they share.

    sizes_predicted, sizes_reference: voxels by id, index 0 is the background. shared: voxels by (predicted, reference).
    """

    predicted: NDArray[np.int32]
    reference: NDArray[np.int32]
    sizes_predicted: NDArray[np.int64]
    sizes_reference: NDArray[np.int64]
    shared: NDArray[np.int64]


@dataclass(frozen=True)
class Detection:
    """counts: tp, fp and fn of a case. pairs: ids of predicted and of reference components, one pair a detection."""

    counts: dict[str, int]
    pairs: list[tuple[list[int], list[int]]]


def find_lesions(prediction: NDArray[np.uint8], reference: NDArray[np.uint8], label: int) -> Lesions:
    """Face-connected components of ``label`` in two label maps (Z, Y, X), cropped to the box around both's."""
    boxes = [label_boxes(labels).get(label) for labels in (prediction, reference)]
    box = union_box(boxes) or (slice(0, 0), slice(0, 0), slice(0, 0))
    # The organisers number components along (X, Y, Z), and their union of ids depends on the numbers.
    (ours, many), (theirs, most) = (
        ndimage.label(labels[box].transpose(2, 1, 0) == label, output=np.int32) for labels in (prediction, reference)
    )
    joint = np.bincount(ours.ravel().astype(np.int64) * (most + 1) + theirs.ravel(), minlength=(many + 1) * (most + 1))
    shared = joint.reshape(many + 1, most + 1)
    return Lesions(ours.transpose(2, 1, 0), theirs.transpose(2, 1, 0), shared.sum(1), shared.sum(0), shared)


def detect(lesions: Lesions, least: float, official: bool) -> Detection:
    """Lesions detected with an overlap (intersection over union) of more than ``least``.

    official: with the scorer's quirks. Its union takes what is matched to the reference whose id is the prediction's;
    ids wrap at 256; a detection counts one, a failed one takes away as many as reference lesions were merged in it; the
    lesions missed and invented are what is left of all components, merged or not.
    Otherwise merged components count as one on either side.
    """
    many, most = len(lesions.sizes_predicted) - 1, len(lesions.sizes_reference) - 1
    matches = _match(lesions.shared)
    if official:
        return _official(lesions, matches, least, many, most)
    pairs = []
    for ours, theirs, _ in matches:
        both = int(lesions.shared[np.ix_(ours, theirs)].sum())
        union = int(lesions.sizes_predicted[ours].sum() + lesions.sizes_reference[theirs].sum()) - both
        if both / union > least:
            pairs.append((ours, theirs))
    merged_ours = sum(len(ours) - 1 for ours, _, _ in matches)
    merged_theirs = sum(len(theirs) - 1 for _, theirs, _ in matches)
    tp = len(pairs)
    return Detection({"tp": tp, "fp": many - merged_ours - tp, "fn": most - merged_theirs - tp}, pairs)


Match = tuple[list[int], list[int], int]
"""Ids of predicted components, of reference components, and how many the organisers count as merged in the latter."""


def _match(shared: NDArray[np.int64]) -> list[Match]:
    ours = [int(index) for index in np.flatnonzero(shared[1:, 1:].any(axis=1)) + 1]
    columns = [[reference] for reference in range(1, shared.shape[1])]
    overlap = shared[np.ix_(ours, range(1, shared.shape[1]))].copy() if ours else np.zeros((0, len(columns)), np.int64)
    merged = [1] * len(columns)
    for row in range(len(ours)):
        touched = np.flatnonzero(overlap[row])
        own = [int(column) for column in touched if int(np.argmax(overlap[:, column])) == row]
        for column in own:
            merged[column] = len(own)
        for column in reversed(own[1:]):
            overlap[:, own[0]] += overlap[:, column]
            overlap = np.delete(overlap, column, axis=1)
            columns[own[0]] += columns.pop(column)
            merged.pop(column)
    chosen = overlap.argmax(axis=1) if len(ours) else np.zeros(0, np.intp)
    matches = []
    for column, theirs in enumerate(columns):
        members = [prediction for prediction, choice in zip(ours, chosen, strict=True) if choice == column]
        if members:
            matches.append((members, sorted(theirs), merged[column]))
    return matches


def _official(lesions: Lesions, matches: list[Match], least: float, many: int, most: int) -> Detection:
    # Predicted components by the reference id they are marked with; the id of a merged lesion is its first one's.
    marks = {prediction: theirs[0] % BYTE for ours, theirs, _ in matches for prediction in ours}
    detected = len(matches)
    # The scorer goes through the matches by prediction id, and forgets what fails before it looks at the next.
    for ours, theirs, merged in sorted(matches):
        both = int(lesions.shared[np.ix_(ours, theirs)].sum())
        marked = [prediction for prediction, mark in marks.items() if mark == ours[0]]
        sizes = lesions.sizes_predicted[marked].sum() + lesions.sizes_reference[theirs].sum()
        union = int(sizes - lesions.shared[np.ix_(marked, theirs)].sum())
        if both / union <= least:
            marks = {prediction: 0 if mark == theirs[0] else mark for prediction, mark in marks.items()}
            detected -= merged
    first = {theirs[0]: theirs for _, theirs, _ in matches}
    pairs = []
    for mark in sorted({mark for mark in marks.values() if mark}):
        members = [prediction for prediction, other in marks.items() if other == mark]
        untouched = [mark] if mark <= most and not any(mark in theirs for theirs in first.values()) else []
        pairs.append((members, first.get(mark, untouched)))
    return Detection({"tp": detected, "fp": many - detected, "fn": most - detected}, pairs)
