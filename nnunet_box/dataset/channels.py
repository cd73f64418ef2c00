"""One channel of a case as a file of its own, where an organiser's layout wants other names or another format."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.cases import SourceCase
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.metaimage import TYPES, grid_as_fields
from nnunet_box.dataset.volumes import read_volume, stored_type, write_nifti
from nnunet_box.errors import UsageError
from nnunet_box.files import write_beside


def put_channel(case: SourceCase, index: int, path: Path) -> None:
    """Write channel ``index`` of a case to ``path``, as ``.nii.gz`` or ``.mha`` by its name; a copy of the
    source's file where that is one already.

    Raises
    ------
    InvalidData: the source cannot be read. NnboxError: the disk is full or the folder cannot be written.
    """
    channel = case.channels[index]
    if channel.index is None and channel.path.name.lower().endswith(".nii.gz") and path.name.endswith(".nii.gz"):
        shutil.copyfile(channel.path, path)
        return
    volume = read_volume(channel.path)
    array = volume.array if channel.index is None else volume.array[channel.index]
    write_image(path, array, volume.geometry)


def write_image(path: Path, array: NDArray[np.generic], geometry: Geometry) -> None:
    """Write voxels (Z, Y, X) as NIfTI or as one uncompressed ``.mha``, by the name of ``path``, whole or not at all.

    Raises
    ------
    UsageError: another format. NnboxError: the disk is full or the folder cannot be written.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        write_nifti(path, array, geometry)
        return
    if not path.name.lower().endswith(".mha"):
        raise UsageError(f"{path}: .nii.gz and .mha are written.")
    wide = array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size > 0
    kept = stored_type(array.dtype, (array.min(), array.max()) if wide else (0, 0))
    names = {np.dtype(code): name for name, code in reversed(TYPES.items())}
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        **grid_as_fields(geometry),
        "ElementType": names[kept.newbyteorder("=")],
        "ElementDataFile": "LOCAL",
    }
    header = "".join(f"{key} = {value}\n" for key, value in lines.items()).encode()
    with write_beside(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        file.write(np.ascontiguousarray(array, dtype=kept.newbyteorder("<")).tobytes())
