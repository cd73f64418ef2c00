"""What training left of cross-validation: label maps and softmax of every validation case, and their ensembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.arrays import open_array
from nnunet_box.dataset.volumes import write_labels_like
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.summary import Pair
from nnunet_box.workspace import VALIDATION

PROBABILITIES = ".probabilities.b2nd"
AGAIN = "Train the fold that wrote it again (nnbox train ... --restart)."
SLAB_BYTES = 64 << 20
"""What the probabilities of one slab may take, all members together, as stored (float16)."""


@dataclass(frozen=True)
class CrossValidation:
    """The validation cases of some folds and where their predictions lie.

    models: folder with one folder a configuration. folds: fold number to the ids of its validation cases.
    references: case id to label file.
    """

    models: Path
    folds: Mapping[int, Sequence[str]]
    references: Mapping[str, Path]

    @property
    def dataset(self) -> str:
        return self.models.name

    def _file(self, configuration: str, fold: int, name: str) -> Path:
        file = self.models / configuration / f"fold_{fold}" / VALIDATION / name
        if not file.exists():
            raise InvalidData(
                file,
                f"the validation predictions of {configuration}, fold {fold}",
                "no such file",
                f"Train the fold: nnbox train {self.dataset} --configuration {configuration} --fold {fold}",
            )
        return file

    def pairs(self, configuration: str) -> list[Pair]:
        """(case id, prediction, reference) of every validation case, fold by fold.

        Raises
        ------
        InvalidData: a fold or one of its cases has no prediction; the message names the command that makes it.
        """
        return [
            (case, self._file(configuration, fold, f"{case}.nii.gz"), self.references[case])
            for fold, cases in sorted(self.folds.items())
            for case in cases
        ]

    def probabilities(self, configuration: str) -> dict[str, Path]:
        """Case id to the file of its softmax; raises ``InvalidData`` as ``pairs``."""
        return {
            case: self._file(configuration, fold, f"{case}{PROBABILITIES}")
            for fold, cases in sorted(self.folds.items())
            for case in cases
        }


def open_probabilities(file: Path, classes: int) -> Any:
    """The softmax (K, Z, Y, X) of one case on its source grid, opened without reading it.

    Raises
    ------
    InvalidData: not a blosc2 array, or not of ``classes`` classes.
    """
    what = f"probabilities (K, Z, Y, X) of {classes} classes"
    array = open_array(file, what, 4, AGAIN)
    if array.shape[0] != classes:
        raise InvalidData(file, what, f"shape {array.shape}", AGAIN)
    return array


def ensemble_labels(files: Sequence[Path], classes: int, slab_bytes: int = SLAB_BYTES) -> NDArray[np.uint8]:
    """The most probable label (Z, Y, X) by the mean of several softmax files, the lower label on a tie.

    Works slab by slab along Z with a running arg-max over the classes, so that memory is bounded by ``slab_bytes`` and
    the label map.

    Raises
    ------
    InvalidData: a file does not open or is damaged, has other classes, or the files differ in shape.
    """
    arrays = [open_probabilities(file, classes) for file in files]
    shape = arrays[0].shape[1:]
    for file, array in zip(files, arrays, strict=True):
        if array.shape[1:] != shape:
            raise InvalidData(
                file,
                f"shape {shape} as {files[0]}",
                f"{array.shape[1:]}",
                "Train both configurations on the same data set.",
            )
    labels = np.zeros(shape, dtype=np.uint8)
    depth = _slab_depth(arrays, classes, slab_bytes)
    for start in range(0, shape[0], depth):
        slabs = [_slab(file, array, start, depth) for file, array in zip(files, arrays, strict=True)]
        best = _summed(slabs, 0)
        chosen = labels[start : start + depth]
        for label in range(1, classes):
            score = _summed(slabs, label)
            better = score > best
            chosen[better] = label
            np.maximum(best, score, out=best)
    return labels


def _slab(file: Path, array: Any, start: int, depth: int) -> NDArray[Any]:
    try:
        return np.asarray(array[:, start : start + depth])
    except (RuntimeError, ValueError) as error:
        raise InvalidData(file, "chunks that can be unpacked", f"{error}", AGAIN) from error


def _summed(slabs: Sequence[NDArray[Any]], label: int) -> NDArray[np.float32]:
    """The sum orders labels as the mean does; float32, since float16 sums would make ties of near ties."""
    total: NDArray[np.float32] = slabs[0][label].astype(np.float32)
    for slab in slabs[1:]:
        total += slab[label]
    return total


def _slab_depth(arrays: Sequence[Any], classes: int, slab_bytes: int) -> int:
    """Slices at a time: what the budget allows, in whole chunks where it can, as a cut chunk is decompressed twice."""
    per_slice = sum(classes * array.shape[2] * array.shape[3] * array.dtype.itemsize for array in arrays)
    depth = max(1, slab_bytes // per_slice)
    chunk = max(int(array.chunks[1]) for array in arrays)
    return int(depth - depth % chunk) if depth > chunk else int(depth)


def write_ensemble(files: Sequence[Path], classes: int, like: Path, path: Path) -> None:
    """Write the ensemble's label map on the grid and with the header of ``like``; raises as ``ensemble_labels``."""
    write_labels_like(path, ensemble_labels(files, classes), like)
