"""Volumes slab by slab: read, checked and written in memory that does not grow with them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from nnunet_box.dataset.cases import Repair, Slab
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.untrusted import check_gzip, drain
from nnunet_box.dataset.volumes import NIFTI_SUFFIXES, nifti_image, open_volume, read_volume
from nnunet_box.errors import InvalidData

SLAB_BYTES = 4 << 20
"""Stored bytes read at once. Scaled voxels are 64-bit for a moment, so a slab may take eight times this."""

GZIP_LEVEL = 1
"""nibabel's own: the volumes are noise, higher levels cost minutes and save little."""


def read_slabs(path: Path, repair: Repair = Repair()) -> Iterator[Slab]:  # noqa: B008 - it is frozen
    """Voxels of a volume as ``read_volume`` gives them, channel by channel, some planes (Z, Y, X) at a time.

    A ``.gz`` is read to its end, so its checksum is compared. What cannot be read in order, a format other than NIfTI
    or exchanged axes, is read as a whole first.

    Raises
    ------
    InvalidData: missing, truncated, corrupt, or not a 3-D or 4-D volume.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES) and repair.axes == (0, 1, 2):
        yield from _nifti_slabs(path)
        return
    check_gzip(path)
    array = read_volume(path).array
    for channel, stored in enumerate(array if array.ndim == 4 else array[None]):
        voxels = repair.apply(stored)
        planes = _planes(voxels.shape, voxels.dtype.itemsize)
        for start in range(0, voxels.shape[0], planes):
            yield channel, start, voxels[start : start + planes]


def _planes(shape: tuple[int, ...], itemsize: int) -> int:
    return max(1, SLAB_BYTES // (shape[1] * shape[2] * itemsize))


def _nifti_slabs(path: Path) -> Iterator[Slab]:
    opened = open_volume(path)
    geometry, channels, proxy = opened.geometry, opened.channels, opened.source.dataobj
    dtype, (depth, *plane) = np.dtype(proxy.dtype), geometry.shape
    planes = _planes(geometry.shape, dtype.itemsize)
    compressed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if compressed else path.open("rb") as stream:
            stream.seek(proxy.offset)
            for channel in range(channels):
                for start in range(0, depth, planes):
                    count = min(planes, depth - start)
                    slab = _read(stream, dtype, (count, *plane))
                    yield channel, start, apply_read_scaling(slab, proxy.slope, proxy.inter)
            if isinstance(stream, gzip.GzipFile):
                drain(path, stream)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        check_gzip(path)
        raise InvalidData(
            path,
            f"voxels of shape {geometry.shape[::-1]}",
            f"data that ends early or is corrupt ({error})",
            "Copy it again from the download.",
        ) from error


def _read(stream: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    wanted = int(np.prod(shape)) * dtype.itemsize
    content = stream.read(wanted)
    if len(content) < wanted:
        raise EOFError(f"{wanted - len(content)} bytes are missing")
    return np.frombuffer(content, dtype).reshape(shape)


def save_slabs(slabs: Iterable[Slab], targets: dict[int, Path], dtype: np.dtype[Any], geometry: Geometry) -> None:
    """Write channels of a volume that comes in slabs as ``.nii.gz`` files of one type, straight to their paths.

    targets: by channel; others are passed over. The same voxels give the same bytes.

    Raises
    ------
    OSError: the disk is full.
    """
    for channel, some in groupby(slabs, key=lambda slab: slab[0]):
        if channel in targets:
            _save_channel((voxels for _, _, voxels in some), targets[channel], dtype, geometry)


def _save_channel(slabs: Iterable[NDArray[Any]], path: Path, dtype: np.dtype[Any], geometry: Geometry) -> None:
    # One voxel seen everywhere: the header needs type and shape, not voxels.
    image = nifti_image(np.broadcast_to(np.zeros((), dtype), geometry.shape), geometry)
    image.update_header()
    header = image.header.copy()
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.single_vox_offset
    with path.open("wb") as file, gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as stream:
        header.write_to(stream)
        for slab in slabs:
            stream.write(np.ascontiguousarray(slab, dtype=dtype).data)
