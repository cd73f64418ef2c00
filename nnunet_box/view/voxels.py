"""Volumes on their way to the browser: NIfTI-1 without compression, a plane at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.cases import ChannelFile
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import nifti_image, read_volume, stored_type
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.metrics import confusion_matrix, label_counts
from nnunet_box.evaluation.summary import read_label_map, read_pair

VOXELS_AT = 352
"""Bytes: NIfTI-1's header, and four that say no extension follows."""
MOST_VOXELS_AN_AXIS = 32767
"""NIfTI-1 keeps the shape in 16 bits."""
SHOWN_TYPES = {"int8": "int16", "uint32": "float32", "int32": "float32"}
"""What the viewer itself would turn them into; here it costs no copy of the whole."""


@dataclass(frozen=True)
class Stream:
    """A file that is made while it is sent. length: in bytes. parts: its bytes, in order, once."""

    length: int
    parts: Iterator[bytes]


def image_stream(channel: ChannelFile, grid: Geometry) -> Stream:
    """One channel, with its own values, on the grid that was read of it.

    Raises
    ------
    InvalidData: it cannot be read, or has another shape than ``grid``.
    """
    array = read_volume(channel.path).array
    array = array if channel.index is None else array[channel.index]
    if array.shape != grid.shape:
        raise InvalidData(channel.path, f"the first channel's shape {grid.shape}", f"{array.shape}", "Check the case.")
    wide = array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size > 0
    kept = stored_type(array.dtype, (array.min(), array.max()) if wide else (0, 0))
    return nifti_stream(array, grid, np.dtype(SHOWN_TYPES.get(kept.name, kept.name)))


def nifti_stream(array: NDArray[Any], grid: Geometry, dtype: np.dtype[Any]) -> Stream:
    """Voxels (Z, Y, X) as a NIfTI-1 file of that type; what is not a finite number becomes 0.

    Raises
    ------
    ValueError: an axis is longer than NIfTI-1 can say.
    """
    if max(array.shape) > MOST_VOXELS_AN_AXIS:
        raise ValueError(f"shape {array.shape}: at most {MOST_VOXELS_AN_AXIS} voxels along an axis")
    little = dtype.newbyteorder("<")
    # The header alone: the voxels behind it are one number.
    header = nifti_image(np.broadcast_to(np.zeros(1, dtype), array.shape), grid).header.as_byteswapped("<")
    header["vox_offset"] = VOXELS_AT
    header["scl_slope"], header["scl_inter"] = 1, 0

    def parts() -> Iterator[bytes]:
        yield header.binaryblock + bytes(VOXELS_AT - len(header.binaryblock))
        for plane in array:
            finite = np.nan_to_num(plane, nan=0.0, posinf=0.0, neginf=0.0) if plane.dtype.kind == "f" else plane
            yield finite.astype(little, copy=False).tobytes()

    return Stream(VOXELS_AT + array.size * little.itemsize, parts())


def labels_stream(file: Path, grid: Geometry) -> Stream:
    """A label map as bytes, on the image's grid.

    Raises
    ------
    InvalidData: it cannot be read, is no label map, or has another shape than ``grid``.
    """
    labels, _ = read_label_map(file)
    if labels.shape != grid.shape:
        raise InvalidData(file, f"the image's shape {grid.shape}", f"{labels.shape}", "Is it of this case?")
    return nifti_stream(labels, grid, np.dtype(np.uint8))


def dice_by_label(prediction: Path, reference: Path) -> dict[int, float]:
    """Dice of every label above 0 that either file holds.

    Raises
    ------
    InvalidData: a file cannot be read, or the shapes differ.
    """
    ours, theirs, _ = read_pair(prediction, reference)
    matrix = confusion_matrix(ours, theirs, max(int(ours.max()), int(theirs.max()), 1) + 1)
    present = (label for label in range(1, len(matrix)) if matrix[label].any() or matrix[:, label].any())
    return {label: label_counts(matrix, label).dice for label in present}
