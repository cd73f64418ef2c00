"""Cases: where they come from, who they belong to, and how they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import OpenVolume, Volume, open_volume
from nnunet_box.errors import InvalidData

SAME_GRID_MM = 1e-3
"""Two spacings closer than this are the same."""

INTEGRAL = 1e-3
"""A stored float this close to an integer is that label: scale factors of a header leave such remainders."""

SplitRule = Literal["groups", "leave-one-group-out", "nnunet"]
"""How cross-validation folds are made; see ``nnunet_box.dataset.splits``."""

FILE_NAME = r"^[^/\\\x00.][^/\\\x00]*$"
"""A name of a file that is not hidden, in whatever folder it is put, and nothing else."""

Fusion = Literal["union", "intersection", "staple"]
"""How the labels of several raters become one."""


@dataclass(frozen=True)
class ChannelFile:
    """One channel of a case: a file, and the index along its fourth axis where it has one."""

    path: Path
    index: int | None = None


@dataclass(frozen=True)
class Repair:
    """What is put right of a source when it is read, and undone when a prediction of it is exported.

    axes: which stored axis becomes Z, Y and X; (1, 0, 2) exchanges the stored Z and Y.
    spacing: millimetres (Z, Y, X) of the repaired grid, where the header's cannot be believed.
    reasons: for ``cases.json``; without one there is nothing to repair.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    spacing: tuple[float, float, float] | None = None
    reasons: tuple[str, ...] = ()

    def apply(self, stored: NDArray[Any]) -> NDArray[Any]:
        """A view of stored voxels (three axes) in repaired order (Z, Y, X)."""
        return stored.transpose(self.axes)

    def undo(self, repaired: NDArray[Any]) -> NDArray[Any]:
        """A view of voxels (Z, Y, X) in the source's order."""
        return repaired.transpose(tuple(int(axis) for axis in np.argsort(self.axes)))

    def grid(self, stored: Geometry) -> Geometry:
        """The repaired grid; axes take their spacing and direction with them, so no voxel moves."""
        z, y, x = self.axes
        direction = np.asarray(stored.direction).reshape(3, 3)[:, [2 - x, 2 - y, 2 - z]]
        return replace(
            stored,
            shape=(stored.shape[z], stored.shape[y], stored.shape[x]),
            spacing=self.spacing or (stored.spacing[z], stored.spacing[y], stored.spacing[x]),
            direction=tuple(float(value) for value in direction.ravel()),
        )


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
    repair: what ``read_image`` puts right and an export undoes; the files stay as they are.
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
    repair: Repair = Repair()

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
    output_name: Annotated[str, Field(pattern=FILE_NAME)]
    image_of: str | None = None
    geometry: Geometry
    """The source's grid, to go back to."""
    header: dict[str, Any]
    repairs: list[str] = []
    repair: Repair = Repair()
    """How the copy's voxels and grid differ from the source's."""
    facts: dict[str, Any] = {}


class CasesFile(BaseModel):
    """``cases.json``, beside ``dataset.json``."""

    schema_version: int = 1
    challenge: str | None
    source: str
    splits: SplitRule = "groups"
    """How folds are made where there are none yet."""
    cases: list[CaseRecord]


Slab = tuple[int, int, NDArray[Any]]
"""Channel, first plane, and some planes (Z, Y, X) of a volume."""


def check_finite(array: NDArray[Any], file: Path) -> tuple[float, float]:
    """Refuse NaN and infinite voxels; returns the least and the largest value.

    Raises
    ------
    InvalidData: with the number of bad voxels and the first one's (z, y, x).
    """
    channels = array if array.ndim == 4 else array[None]
    return check_finite_slabs(((channel, 0, voxels) for channel, voxels in enumerate(channels)), file)[1]


def check_finite_slabs(slabs: Iterable[Slab], file: Path) -> tuple[np.dtype[Any], tuple[float, float]]:
    """As ``check_finite``, of a volume that comes in slabs; returns its type, least and largest value.

    Raises
    ------
    InvalidData: as ``check_finite``.
    """
    count, first, kind = 0, (0, 0, 0), np.dtype(np.uint8)
    least, largest = np.inf, -np.inf
    for _, start, slab in slabs:
        kind = slab.dtype
        ends = slab.min(), slab.max()
        least, largest = min(least, ends[0]), max(largest, ends[1])
        # NaN is its own minimum and maximum, so the ends tell whether to look for bad voxels at all.
        if kind.kind != "f" or np.isfinite(ends).all():
            continue
        bad = ~np.isfinite(slab)
        if not count:
            z, y, x = (int(index) for index in np.unravel_index(int(np.argmax(bad)), bad.shape))
            first = (start + z, y, x)
        count += int(np.count_nonzero(bad))
    if count:
        raise InvalidData(
            file, "finite voxels", f"{count} NaN or infinite, the first at {first}", "Repair or leave out this case."
        )
    return kind, (least, largest)


def _open_files(case: SourceCase) -> dict[Path, OpenVolume]:
    """A case's files in channel order, opened once and checked against each other."""
    files: dict[Path, OpenVolume] = {}
    for channel in case.channels:
        if channel.path in files:
            continue
        opened = open_volume(channel.path)
        taken = sum(other.path == channel.path for other in case.channels)
        if opened.channels != taken:
            raise InvalidData(
                channel.path,
                f"{taken} channel{'s' * (taken > 1)}",
                f"{opened.channels} along the fourth axis",
                "Check that the file is complete and of this challenge.",
            )
        grid, first = opened.geometry, next(iter(files.values()), opened).geometry
        if grid.shape != first.shape or not np.allclose(grid.spacing, first.spacing, atol=SAME_GRID_MM):
            raise InvalidData(
                channel.path,
                f"shape {first.shape} and spacing {first.spacing} as {case.reference_file.name}",
                f"{grid.shape} and {grid.spacing}",
                "Resample the channels of the case onto one grid.",
            )
        files[channel.path] = opened
    if not files:
        raise InvalidData(case.id, "at least one channel", "none", "Add the missing image.")
    return files


def case_headers(case: SourceCase) -> dict[Path, tuple[Geometry, dict[str, Any]]]:
    """Grid and header facts of a case's files in channel order, checked against each other; voxels are not read.

    Raises
    ------
    InvalidData: a file is missing or unreadable, holds another number of channels than the case takes from it, or the
    files' shapes or spacings differ.
    """
    return {path: (opened.geometry, opened.header()) for path, opened in _open_files(case).items()}


def case_volumes(case: SourceCase) -> dict[Path, Volume]:
    """The files of a case, each read once, in channel order, as they are stored; checked one by one and against each
    other.

    Raises
    ------
    InvalidData: as ``case_headers``, or a file is truncated or holds NaN.
    """
    volumes = {}
    for path, opened in _open_files(case).items():
        volumes[path] = Volume(opened.voxels(), opened.geometry, opened.header())
        check_finite(volumes[path].array, path)
    return volumes


def channel_array(volumes: dict[Path, Volume], channel: ChannelFile) -> NDArray[Any]:
    """One channel (Z, Y, X) out of what ``case_volumes`` read, in the file's own type."""
    return _channel(volumes[channel.path].array, channel)


def _channel(stored: NDArray[Any], channel: ChannelFile) -> NDArray[Any]:
    return stored[channel.index or 0] if stored.ndim == 4 else stored


def read_image(case: SourceCase) -> tuple[NDArray[np.float32], Geometry]:
    """All channels of a case as (C, Z, Y, X) float32, and their common grid, both repaired where the case says so.

    Each file is read once, and one file's stored voxels are in memory at a time.

    Raises
    ------
    InvalidData: as ``case_volumes``.
    """
    return _image(case, _open_files(case))


def _image(case: SourceCase, files: dict[Path, OpenVolume]) -> tuple[NDArray[np.float32], Geometry]:
    grid = case.repair.grid(files[case.reference_file].geometry)
    image = np.empty((len(case.channels), *grid.shape), dtype=np.float32)
    for path, opened in files.items():
        stored = opened.voxels()
        check_finite(stored, path)
        for index, channel in enumerate(case.channels):
            if channel.path == path:
                image[index] = case.repair.apply(_channel(stored, channel))
        del stored
    return image, grid


def read_labelled(
    case: SourceCase, label: Path, declared: set[int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8], Geometry]:
    """``read_image`` and ``read_label`` of a case, each file opened once. label: the case's own, or a prediction of it.

    Raises
    ------
    InvalidData: as those two.
    """
    files = _open_files(case)
    opened = _open_label(label, case.reference_file, files[case.reference_file].geometry.shape)
    image, grid = _image(case, files)
    return image, label_values(opened.voxels(), declared, label), grid


def read_label(file: Path, declared: set[int], image: Path) -> NDArray[np.uint8]:
    """A label map (Z, Y, X), checked against its image's shape and the declared label values.

    Float files are taken where every value is integral (two of Decathlon's hippocampus labels are float32). The label's
    own grid in space is not looked at: arrays decide, since label headers lie in several challenges.

    Raises
    ------
    InvalidData: missing, truncated, another shape than ``image``, values that are not integral or not declared.
    """
    return label_values(_open_label(file, image).voxels(), declared, file)


def check_label_shape(file: Path, image: Path) -> None:
    """Refuse a label map of another shape than its image.

    Raises
    ------
    InvalidData: the label is missing, or its shape differs.
    """
    _open_label(file, image)


def _open_label(file: Path, image: Path, expected: tuple[int, int, int] | None = None) -> OpenVolume:
    """expected: the image's shape, where its header has been read."""
    if not file.is_file():
        raise InvalidData(
            file, f"the label of {image.name}", "no such file", "Restore it from the download or remove the image."
        )
    opened = open_volume(file)
    expected = expected or (opened if file == image else open_volume(image)).geometry.shape
    found = opened.geometry.shape
    if found != expected or opened.channels > 1:
        raise InvalidData(
            file,
            f"shape {expected} as {image.name}",
            f"{found if opened.channels == 1 else (opened.channels, *found)}",
            "Resample the label map onto the image's grid, or leave out this case.",
        )
    return opened


def label_values(stored: NDArray[Any], declared: set[int], file: Path) -> NDArray[np.uint8]:
    """Voxels of a label map, or of a slab of one, as uint8.

    Raises
    ------
    InvalidData: values that are not finite, not integral or not declared.
    """
    ends = check_finite(stored, file)
    labels = stored
    if not np.issubdtype(labels.dtype, np.integer):
        rounded = np.rint(labels)
        off = np.abs(rounded - labels) > INTEGRAL
        if np.any(off):
            found = f"{labels[off][0]}"
            raise InvalidData(file, "integral label values", found, "Export the label map without interpolation.")
        labels, ends = rounded, (np.rint(ends[0]), np.rint(ends[1]))
    # Values without gaps are known by their ends; sorting all voxels is left for the refusal.
    if declared != set(range(len(declared))) or ends[0] < 0 or ends[1] >= len(declared):
        unknown = sorted({int(value) for value in np.unique(labels)} - declared)
        if unknown:
            raise InvalidData(
                file,
                f"labels {sorted(declared)}",
                f"undeclared {unknown}",
                "Correct the label map or declare the value in dataset.json.",
            )
    return labels.astype(np.uint8)
