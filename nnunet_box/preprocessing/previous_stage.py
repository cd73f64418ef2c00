"""The label map of a cascade's first stage: onto the second one's grid, stored there, and as channels of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.arrays import open_array
from nnunet_box.disk import hidden_disk_errors
from nnunet_box.preprocessing.crop import box_slices
from nnunet_box.preprocessing.pipeline import Placement
from nnunet_box.preprocessing.resample import resample_labels

SUFFIX = ".b2nd"


def labels_on_grid(
    labels: NDArray[np.uint8],
    placement: Placement,
    mask: NDArray[np.bool_] | None = None,
    nearest_ties: bool = False,
) -> NDArray[np.int8]:
    """A label map (Z, Y, X) of the file's grid on the network's grid, in the network's axes.

    Cropped and resampled label by label, linearly, as the reference labels are (authors' code of April 2019). With
    ``mask``, the nonzero voxels of what was kept, the background outside of it is a label of its own on the way.
    nearest_ties: as ``resample_labels``.
    """
    orders = placement.orders(placement.resampling.labels)
    cropped = labels[box_slices(placement.box)]
    if mask is None:
        on_grid = resample_labels(cropped, placement.target_shape, orders, nearest_ties)
    else:
        outside = np.uint8(cropped.max() + 1)
        marked = np.where((cropped == 0) & ~mask, outside, cropped)
        on_grid = resample_labels(marked, placement.target_shape, orders, nearest_ties)
        on_grid = np.where(on_grid == outside, np.uint8(0), on_grid)
    return np.ascontiguousarray(on_grid.astype(np.int8).transpose(placement.axis_order))


def foreground_channels(labels: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """One-hot channels (K - 1, ...) of a label map (...): one for each of the labels 1 to ``classes`` - 1.

    The background has none (authors' code of April 2019).
    """
    values = np.arange(1, classes).reshape(-1, *(1,) * labels.ndim)
    return np.asarray(labels[None] == values, dtype=np.float32)


def write_previous(folder: Path, case_id: str, labels: NDArray[np.int8], patch: tuple[int, ...]) -> str:
    """Write a case's label map (Z, Y, X) as ``<case>.b2nd``, chunked near the patch, into ``folder``: one of
    ``fill_beside``, which puts it into the store as a whole. Returns the file's name.

    Raises
    ------
    OSError: the disk is full or the folder cannot be written.
    """
    import blosc2

    from nnunet_box.preprocessing.store import chunk_shape, compression

    file = _file(folder, case_id)
    with hidden_disk_errors(folder):
        chunks = chunk_shape(patch, labels.shape)
        blosc2.asarray(labels, urlpath=str(file), chunks=chunks, **compression(chunks))
    return file.name


def has_previous(folder: Path, case_id: str) -> bool:
    """Whether the case's label map is there."""
    return _file(folder, case_id).is_file()


def open_previous(folder: Path, case_id: str) -> Any:
    """A case's stored label map, lazy (Z, Y, X) int8.

    Raises
    ------
    InvalidData: it is not there or cannot be opened.
    """
    fix = "Delete the folder; nnbox train makes it again."
    return open_array(_file(folder, case_id), "a label map of the previous stage (Z, Y, X)", 3, fix, threads=1)


def _file(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}{SUFFIX}"
