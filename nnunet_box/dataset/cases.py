"""Cases: where they come from, who they belong to, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import Volume, read_header, read_volume
from nnunet_box.errors import InvalidData

SAME_GRID_MM = 1e-3
"""Two spacings closer than this are the same."""

INTEGRAL = 1e-3
"""A stored float this close to an integer is that label: scale factors of a header leave such remainders."""

SplitRule = Literal["groups", "leave-one-group-out", "nnunet"]
"""How cross-validation folds are made; see ``nnunet_box.dataset.splits``."""

Fusion = Literal["union", "intersection", "staple"]
"""How the labels of several raters become one."""


@dataclass(frozen=True)
class ChannelFile:
    """One channel of a case: a file, and the index along its fourth axis where it has one."""

    path: Path
    index: int | None = None


@dataclass(frozen=True)
class SourceCase:
    """One case as it lies in a challenge's download or a plain folder.

    id: the case's name in the data set; ``group``: what must never be on both sides of a split (the patient).
    channels: in the order the network sees them. ``label``: the reference, where there is one.
    stratum: what folds should balance (ACDC's diagnosis). ``rater``: whose label it is, where there are several.
    output_name: file name the leaderboard wants for the prediction.
    image_of: the case whose image this one shares, where two raters labelled one scan: such images are kept once.
    fusion, other_labels: how the further raters' labels and ``label`` are made one at conversion.
    facts: further facts of the source kept in ``cases.json`` (phase, frame, ...).
    """

    id: str
    group: str
    channels: tuple[ChannelFile, ...]
    label: Path | None = None
    stratum: str | None = None
    rater: str | None = None
    output_name: str = ""
    image_of: str | None = None
    fusion: Fusion | None = None
    other_labels: tuple[Path, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def reference_file(self) -> Path:
        """The file whose grid and header a prediction takes over."""
        return self.channels[0].path


class CaseRecord(BaseModel):
    """One case in ``cases.json``: what is needed to find the source again and to go back to it."""

    model_config = ConfigDict(frozen=True)

    id: str
    group: str
    stratum: str | None = None
    rater: str | None = None
    split: str
    """``train`` or ``test``."""
    source_images: list[str]
    """Paths below the source folder, one a channel."""
    source_label: str | None = None
    output_name: str
    image_of: str | None = None
    geometry: Geometry
    header: dict[str, Any]
    repairs: list[str] = []
    facts: dict[str, Any] = {}


class CasesFile(BaseModel):
    """``cases.json``, beside ``dataset.json``."""

    schema_version: int = 1
    challenge: str | None
    source: str
    splits: SplitRule = "groups"
    """How folds are made where there are none yet."""
    cases: list[CaseRecord]


def check_finite(array: NDArray[Any], file: Path) -> None:
    """Refuse NaN and infinite voxels.

    Raises
    ------
    InvalidData: with the number of bad voxels and the first one's (z, y, x).
    """
    if not np.issubdtype(array.dtype, np.floating):
        return
    bad = ~np.isfinite(array)
    count = int(np.count_nonzero(bad))
    if count:
        first = tuple(int(index) for index in np.unravel_index(int(np.argmax(bad)), bad.shape))
        raise InvalidData(
            file, "finite voxels", f"{count} NaN or infinite, the first at {first}", "Repair or leave out this case."
        )


def case_volumes(case: SourceCase) -> dict[Path, Volume]:
    """The files of a case, each read once, in channel order; checked one by one and against each other.

    Raises
    ------
    InvalidData: a file is missing, truncated, holds NaN or another number of channels than the case takes from it, or
    the files' shapes or spacings differ.
    """
    volumes: dict[Path, Volume] = {}
    for channel in case.channels:
        if channel.path in volumes:
            continue
        volume = read_volume(channel.path)
        taken = sum(other.path == channel.path for other in case.channels)
        stored = volume.array.shape[0] if volume.array.ndim == 4 else 1
        if stored != taken:
            raise InvalidData(
                channel.path,
                f"{taken} channel{'s' * (taken > 1)}",
                f"{stored} along the fourth axis",
                "Check that the file is complete and of this challenge.",
            )
        check_finite(volume.array, channel.path)
        first = next(iter(volumes.values()), volume).geometry
        if volume.geometry.shape != first.shape or not np.allclose(
            volume.geometry.spacing, first.spacing, atol=SAME_GRID_MM
        ):
            raise InvalidData(
                channel.path,
                f"shape {first.shape} and spacing {first.spacing} as {case.reference_file.name}",
                f"{volume.geometry.shape} and {volume.geometry.spacing}",
                "All channels of a case must share one grid.",
            )
        volumes[channel.path] = volume
    if not volumes:
        raise InvalidData(case.id, "at least one channel", "none", "Add the missing image.")
    return volumes


def channel_array(volumes: dict[Path, Volume], channel: ChannelFile) -> NDArray[Any]:
    """One channel (Z, Y, X) out of what ``case_volumes`` read, in the file's own type."""
    array = volumes[channel.path].array
    return array[channel.index or 0] if array.ndim == 4 else array


def read_image(case: SourceCase) -> tuple[NDArray[np.float32], Geometry]:
    """All channels of a case as (C, Z, Y, X) float32, and their common grid.

    Raises
    ------
    InvalidData: as ``case_volumes``.
    """
    volumes = case_volumes(case)
    image = np.stack([np.asarray(channel_array(volumes, channel), dtype=np.float32) for channel in case.channels])
    return image, volumes[case.reference_file].geometry


def read_label(file: Path, declared: set[int], image: Path) -> NDArray[np.uint8]:
    """A label map (Z, Y, X), checked against its image's shape and the declared label values.

    Float files are taken where every value is integral (two of Decathlon's hippocampus labels are float32). The label's
    own grid in space is not looked at: arrays decide, since label headers lie in several challenges.

    Raises
    ------
    InvalidData: missing, truncated, another shape than ``image``, values that are not integral or not declared.
    """
    if not file.is_file():
        raise InvalidData(
            file, f"the label of {image.name}", "no such file", "Restore it from the download or remove the image."
        )
    volume = read_volume(file)
    expected = read_header(image)[0].shape
    if volume.array.shape != expected:
        raise InvalidData(
            file,
            f"shape {expected} as {image.name}",
            f"{volume.array.shape}",
            "Image and label must match voxel by voxel.",
        )
    check_finite(volume.array, file)
    labels = volume.array
    if not np.issubdtype(labels.dtype, np.integer):
        rounded = np.rint(labels)
        off = np.abs(rounded - labels) > INTEGRAL
        if np.any(off):
            found = f"{labels[off][0]}"
            raise InvalidData(file, "integral label values", found, "Export the label map without interpolation.")
        labels = rounded
    unknown = sorted({int(value) for value in np.unique(labels)} - declared)
    if unknown:
        raise InvalidData(
            file,
            f"labels {sorted(declared)}",
            f"undeclared {unknown}",
            "Correct the label map or declare the value in dataset.json.",
        )
    return labels.astype(np.uint8)
