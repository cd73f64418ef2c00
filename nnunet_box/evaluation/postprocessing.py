"""Largest-component postprocessing, decided on cross-validation predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from nnunet_box.evaluation.metrics import Counts, confusion_matrix, label_boxes, label_counts, union_box
from nnunet_box.evaluation.summary import foreground_labels, nan_mean, read_pair
from nnunet_box.progress import track

Connectivity = Literal[6, 18, 26]
FULL: Literal[26] = 26
FACES: Literal[6] = 6


class Postprocessing(BaseModel):
    """What is done to a label map after prediction.

    steps: in order; of the union of each step's labels only the largest component stays, the rest becomes background.
    Empty: nothing.
    connectivity: which voxels touch. 26 (faces, edges and corners) is what nnU-Net's own postprocessing uses,
    scikit-image's default for ``label``; it is the cautious choice, since a structure that hangs together by a corner
    is not cut. 6 (faces only) is what the authors' script for LiTS used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[tuple[int, ...], ...] = ()
    connectivity: Connectivity = FULL


class PostprocessingTrial(BaseModel):
    """One step that was tried on the cross-validation predictions, and what it did to the mean Dice over cases.

    dice_before, dice_after: per label; None where the label occurs in no case. mean_before, mean_after: over labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[int, ...]
    dice_before: dict[int, float | None]
    dice_after: dict[int, float | None]
    mean_before: float | None
    mean_after: float | None
    accepted: bool
    reason: str


class PostprocessingDecision(BaseModel):
    """All trials on ``cases`` cases, and the postprocessing that follows from those accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int
    trials: tuple[PostprocessingTrial, ...]
    postprocessing: Postprocessing


def largest_foreground(labels: Iterable[int]) -> Postprocessing:
    """The paper's rule for LiTS: of all foreground together (liver and tumours) only the largest component stays.

    Face connectivity, as in the authors' script. Applied where a person asks for it, whatever cross-validation says.
    """
    return Postprocessing(steps=(foreground_labels(labels),), connectivity=FACES)


def largest_component(mask: NDArray[np.bool_], connectivity: Connectivity = FULL) -> NDArray[np.bool_]:
    """The largest component of a mask (Z, Y, X); those that tie for the largest all stay: nothing tells them apart."""
    components, count = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=connectivity, return_N=True)
    if count < 2:
        return mask.copy()
    sizes = cc3d.statistics(components)["voxel_counts"].astype(np.int64)
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes == sizes.max())[components]
    return kept


def apply_postprocessing(labels: NDArray[np.uint8], postprocessing: Postprocessing) -> NDArray[np.uint8]:
    """A copy of a label map (Z, Y, X) with the steps carried out, each inside the box around its labels."""
    result = labels.copy()
    for step in postprocessing.steps:
        boxes = label_boxes(result)
        box = union_box([boxes.get(label) for label in step])
        if box is None:
            continue
        chosen = np.zeros(256, dtype=bool)
        chosen[list(step)] = True
        mask = chosen[result[box]]
        result[box][mask & ~largest_component(mask, postprocessing.connectivity)] = 0
    return result


def decide_postprocessing(
    pairs: Sequence[tuple[str, Path, Path]], labels: Iterable[int], connectivity: Connectivity = FULL
) -> PostprocessingDecision:
    """Keep largest components only where cross-validation gains by it.

    nnU-Net's later rule; the preprint names automatic postprocessing as future work. First all foreground together:
    accepted if the mean foreground Dice rises and no label's mean falls. Then each label by itself, on
    top of that: accepted if the label's mean rises; no other label can fall, because voxels only turn to background.

    Parameters
    ----------
    pairs: (case id, prediction file, reference file) of cross-validation; one case is in memory at a time.
    labels: label values, or the mapping from value to name.

    Raises
    ------
    InvalidData: a file is missing, corrupt, or the shapes of a pair differ.
    """
    foreground = foreground_labels(labels)
    pairs = list(pairs)
    joint = Postprocessing(steps=(foreground,), connectivity=connectivity)
    before, after = _joint_dice(pairs, foreground, joint)
    trials = [_trial(foreground, before, after)]
    steps = joint.steps if trials[0].accepted else ()
    if len(foreground) > 1:  # with one label the first trial was this one already
        before = after if trials[0].accepted else before
        alone = _label_dice(pairs, foreground, Postprocessing(steps=steps, connectivity=connectivity))
        for label in foreground:
            trial = _trial((label,), before, {**before, label: alone[label]})
            trials.append(trial)
            if trial.accepted:
                before = {**before, label: alone[label]}
                steps = (*steps, (label,))
    return PostprocessingDecision(
        cases=len(pairs), trials=tuple(trials), postprocessing=Postprocessing(steps=steps, connectivity=connectivity)
    )


def _joint_dice(
    pairs: Sequence[tuple[str, Path, Path]], labels: tuple[int, ...], joint: Postprocessing
) -> tuple[dict[int, float], dict[int, float]]:
    plain: dict[int, list[float]] = {label: [] for label in labels}
    processed: dict[int, list[float]] = {label: [] for label in labels}
    for _, prediction, reference in track(pairs, "postprocessing, all labels together"):
        ours, theirs, _ = read_pair(prediction, reference, labels)
        for scores, candidate in ((plain, ours), (processed, apply_postprocessing(ours, joint))):
            matrix = confusion_matrix(candidate, theirs, max(labels) + 1)
            for label in labels:
                scores[label].append(label_counts(matrix, label).dice)
    return _means(plain), _means(processed)


def _label_dice(
    pairs: Sequence[tuple[str, Path, Path]], labels: tuple[int, ...], first: Postprocessing
) -> dict[int, float]:
    scores: dict[int, list[float]] = {label: [] for label in labels}
    for _, prediction, reference in track(pairs, "postprocessing, label by label"):
        ours, theirs, _ = read_pair(prediction, reference, labels)
        ours = apply_postprocessing(ours, first)
        reference_voxels = np.bincount(theirs.ravel(), minlength=256)
        boxes = label_boxes(ours)
        for label in labels:
            tp = n_pred = 0
            if (box := boxes.get(label)) is not None:
                kept = largest_component(ours[box] == label, first.connectivity)
                n_pred, tp = int(np.count_nonzero(kept)), int(np.count_nonzero(theirs[box][kept] == label))
            n_ref = int(reference_voxels[label])
            scores[label].append(Counts(tp, n_pred - tp, n_ref - tp, ours.size - n_pred - n_ref + tp).dice)
    return _means(scores)


def _means(scores: dict[int, list[float]]) -> dict[int, float]:
    return {label: nan_mean(values) for label, values in scores.items()}


def _trial(labels: tuple[int, ...], before: dict[int, float], after: dict[int, float]) -> PostprocessingTrial:
    mean_before, mean_after = nan_mean(before.values()), nan_mean(after.values())
    fallen = [label for label in before if after[label] < before[label]]
    # Comparisons with NaN are false: a label that occurs nowhere neither rises nor falls.
    accepted = mean_after > mean_before and not fallen
    if accepted:
        reason = "the mean rises and no label falls"
    else:
        reason = f"falls for labels {fallen}" if fallen else "the mean does not rise"
    return PostprocessingTrial(
        labels=labels,
        dice_before={label: optional(value) for label, value in before.items()},
        dice_after={label: optional(value) for label, value in after.items()},
        mean_before=optional(mean_before),
        mean_after=optional(mean_after),
        accepted=accepted,
        reason=reason,
    )


def optional(value: float) -> float | None:
    """None for NaN, so that our own JSON stays standard JSON."""
    return None if np.isnan(value) else float(value)
