"""A folder of predictions beside a folder of references: overlap and distances per case and structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_box.dataset.volumes import is_volume, strip_suffix
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.metrics import confusion_matrix, label_counts, structure_masks, surface_distances
from nnunet_box.evaluation.summary import Pair, nan_mean, read_pair
from nnunet_box.evaluation.surfels import surfel_distances
from nnunet_box.files import null_undefined, read_json
from nnunet_box.progress import track

TOLERANCE_MM = 1.0
"""Tolerance of the surface Dice where none is given: about a voxel of a CT in plane. Challenges set their own."""


@dataclass(frozen=True)
class StructureScores:
    """One structure in one case; distances in mm.

    dice and surface_dice are NaN where neither side holds the structure, 0 where one does; the distances NaN and
    infinite. Distances lie between border voxels, as medpy measures; the surface Dice weights surface elements by area,
    as DeepMind defined it.
    """

    dice: float
    iou: float
    hausdorff: float
    hausdorff_95: float
    assd: float
    surface_dice: float


ABSENT = StructureScores(*[float("nan")] * 6)


@dataclass(frozen=True)
class StructureMeans:
    """One structure over all cases: means of what is defined.

    cases: those where either side holds the structure. one_sided: those of them where only one does; their Dice of 0 is
    in the means, their infinite distances are not, so that this number has to be read beside them.
    """

    scores: StructureScores
    cases: int
    one_sided: int


@dataclass(frozen=True)
class Comparison:
    """labels: value to name, without background. cases: case id to label to scores."""

    labels: dict[int, str]
    tolerance_mm: float
    cases: dict[str, dict[int, StructureScores]]

    def means(self, label: int) -> StructureMeans:
        """Means of one label over the cases."""
        scores = [case[label] for case in self.cases.values()]
        values = {name: nan_mean(_finite(getattr(score, name) for score in scores)) for name in vars(ABSENT)}
        return StructureMeans(
            StructureScores(**values),
            cases=sum(not np.isnan(score.dice) for score in scores),
            one_sided=sum(bool(np.isinf(score.hausdorff)) for score in scores),
        )

    @property
    def mean_foreground_dice(self) -> float:
        """Mean over structures of the means over cases."""
        return nan_mean(self.means(label).scores.dice for label in self.labels)

    def as_json(self) -> dict[str, Any]:
        """Standard JSON: what is not a finite number is null."""
        structures = {}
        for label, name in self.labels.items():
            means = self.means(label)
            facts = {"label": label, "cases": means.cases, "one_sided": means.one_sided}
            structures[name] = {**vars(means.scores), **facts}
        cases = {
            case: {name: vars(scores[label]) for label, name in self.labels.items()}
            for case, scores in self.cases.items()
        }
        mean = self.mean_foreground_dice
        whole = {
            "tolerance_mm": self.tolerance_mm,
            "mean_foreground_dice": mean,
            "structures": structures,
            "cases": cases,
        }
        standard: dict[str, Any] = null_undefined(whole)
        return standard


def pair_files(predictions: Path, references: Path, partial: bool = False) -> list[Pair]:
    """Pair two folders (or two files) by file name without suffix; ``.nii`` and ``.nii.gz`` are the same case.

    Raises
    ------
    InvalidData: no volumes, a name twice, or a file without its counterpart. With ``partial`` only the last is allowed.
    """
    if predictions.is_file() and references.is_file():
        return [(strip_suffix(predictions), predictions, references)]
    ours, theirs = _volumes(predictions), _volumes(references)
    if not partial:
        for files, folder, others in ((ours, references, theirs), (theirs, predictions, ours)):
            alone = sorted(set(files) - set(others))
            if alone:
                raise InvalidData(
                    files[alone[0]],
                    f"a file of the same name in {folder}",
                    f"none, as for {len(alone) - 1} more" if len(alone) > 1 else "none",
                    "Add what is missing, or evaluate only the cases that have both with --partial.",
                )
    both = sorted(set(ours) & set(theirs))
    if not both:
        raise InvalidData(
            predictions,
            f"files named as those in {references}",
            "no name in common",
            "Give two folders whose files have the same names.",
        )
    return [(case, ours[case], theirs[case]) for case in both]


def _volumes(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if is_volume(path):
            if strip_suffix(path) in files:
                raise InvalidData(
                    path, "one file a case", f"{files[strip_suffix(path)].name} as well", "Remove one of them."
                )
            files[strip_suffix(path)] = path
    if not files:
        raise InvalidData(
            folder, "a folder of label maps", "none", "Give a folder of .nii.gz, .nii, .mha or .mhd files."
        )
    return files


def read_label_names(file: Path) -> dict[int, str]:
    """Label value to name from a ``dataset.json``: nnU-Net v2's (name to value) or the Decathlon's (value to name).

    Raises
    ------
    InvalidData: no labels, or regions of several values.
    """
    content = read_json(file)
    declared = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(declared, dict):
        raise InvalidData(file, "an object 'labels'", "none", "Give the data set's dataset.json.")
    if all(isinstance(value, int) for value in declared.values()):
        names = {int(value): str(name) for name, value in declared.items()}
    elif all(str(value).isdigit() for value in declared):
        names = {int(value): str(name) for value, name in declared.items()}
    else:
        raise InvalidData(file, "one integer a label", "regions", "Evaluate with one value a structure.")
    return {value: names[value] for value in sorted(names) if value != 0}


def find_label_names(references: Path) -> dict[int, str] | None:
    """Names from the ``dataset.json`` in or above a folder of references, as beside ``labelsTr``; None without one."""
    folder = references if references.is_dir() else references.parent
    found = next((file for file in (folder / "dataset.json", folder.parent / "dataset.json") if file.is_file()), None)
    return read_label_names(found) if found else None


def compare(
    pairs: Sequence[Pair], labels: Mapping[int, str] | None = None, tolerance_mm: float = TOLERANCE_MM
) -> Comparison:
    """Dice, IoU, Hausdorff distances, ASSD and surface Dice of every pair, one case in memory at a time.

    Parameters
    ----------
    pairs: (case id, prediction file, reference file). Distances are in mm by the reference's spacing.
    labels: value to name; without it, every value above 0 that occurs is a structure.
    tolerance_mm: of the surface Dice.

    Raises
    ------
    InvalidData: a file is missing or corrupt, holds undeclared labels, or the shapes of a pair differ.
    """
    declared = {value: name for value, name in labels.items() if value != 0} if labels is not None else None
    cases: dict[str, dict[int, StructureScores]] = {}
    for case, prediction, reference in track(pairs, "evaluating"):
        ours, theirs, spacing = read_pair(prediction, reference, declared)
        matrix = confusion_matrix(ours, theirs, max(int(ours.max()), int(theirs.max()), 1) + 1)
        present = [label for label in range(1, len(matrix)) if matrix[label].any() or matrix[:, label].any()]
        scores = {}
        for label, masks in structure_masks(ours, theirs, present):
            counts, distances = label_counts(matrix, label), surface_distances(*masks, spacing)
            scores[label] = StructureScores(
                dice=counts.dice,
                iou=counts.iou,
                hausdorff=distances.hausdorff,
                hausdorff_95=distances.hausdorff_95,
                assd=distances.assd,
                surface_dice=surfel_distances(*masks, spacing).surface_dice(tolerance_mm),
            )
        cases[case] = scores
    if declared is None:
        declared = {
            label: f"label {label}" for label in sorted({label for scores in cases.values() for label in scores})
        }
    complete = {case: {label: scores.get(label, ABSENT) for label in declared} for case, scores in cases.items()}
    return Comparison(declared, tolerance_mm, complete)


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)]
