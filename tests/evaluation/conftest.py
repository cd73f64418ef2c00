"""Small label maps on disk, and the folders that training leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import blosc2
import numpy as np
import pytest
from numpy.typing import NDArray

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import write_nifti

LabelWriter = Callable[..., Path]


def write_labels(path: Path, array: NDArray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Path:
    write_nifti(path, np.asarray(array), Geometry(np.shape(array), spacing))
    return path


@pytest.fixture
def labels_file(tmp_path: Path) -> LabelWriter:
    """Write a label map under a name in the test's folder."""

    def write(name: str, array: NDArray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Path:
        return write_labels(tmp_path / name, array, spacing)

    return write


@dataclass
class Models:
    """models/toy as training leaves it: two folds of two cases, labels 1 and 2 (K = 3)."""

    root: Path
    truth: dict[str, NDArray[np.uint8]]
    labels: Mapping[int, str] = field(default_factory=lambda: {0: "background", 1: "left", 2: "right"})
    folds: Mapping[int, list[str]] = field(default_factory=lambda: {0: ["a", "b"], 1: ["c", "d"]})

    @property
    def models(self) -> Path:
        return self.root / "models" / "toy"

    @property
    def cases(self) -> list[SourceCase]:
        return [
            SourceCase(
                case, case, (ChannelFile(self.root / f"{case}_0000.nii.gz"),), self.root / "labels" / f"{case}.nii.gz"
            )
            for case in self.truth
        ]

    def validation(self, configuration: str, fold: int) -> Path:
        return self.models / configuration / f"fold_{fold}" / "validation"

    def add(self, configuration: str, softmax: Callable[[str], NDArray], probabilities: bool = True) -> None:
        """Write what a configuration predicts: ``softmax`` gives (K, Z, Y, X) for a case."""
        for fold, cases in self.folds.items():
            for case in cases:
                values = np.asarray(softmax(case), dtype=np.float16)
                folder = self.validation(configuration, fold)
                write_labels(folder / f"{case}.nii.gz", values.argmax(0).astype(np.uint8))
                if probabilities:
                    blosc2.asarray(values, urlpath=str(folder / f"{case}.probabilities.b2nd"), mode="w")


@pytest.fixture
def toy(tmp_path: Path) -> Models:
    """Each case: a bar of four voxels of label 1 and one of four voxels of label 2."""
    truth = np.zeros((3, 4, 6), dtype=np.uint8)
    truth[1, 1, 1:5] = 1
    truth[1, 3, 1:5] = 2
    models = Models(tmp_path, {case: truth.copy() for case in "abcd"})
    for case, labels in models.truth.items():
        write_labels(tmp_path / "labels" / f"{case}.nii.gz", labels)
    return models
