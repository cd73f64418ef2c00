"""NRRD through SimpleITK, voxels in the same file: ITK would follow a header that names another to wherever it says.

Format: teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.errors import InvalidData

HEADER_BYTES = 1 << 20
"""More than any header; one that does not end within is refused, since its end may name a file."""


def open_nrrd(path: Path) -> Any:
    """SimpleITK's reader with the header read, and nothing else.

    Raises
    ------
    InvalidData: no NRRD, or its voxels are in another file.
    """
    sitk = _simpleitk(path)
    with path.open("rb") as stream:
        content = stream.read(HEADER_BYTES)
    head, blank, _ = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    # Without the magic ITK would try its other formats.
    if not content.startswith(b"NRRD") or (not blank and len(content) == HEADER_BYTES):
        found = f"{len(content)} bytes that are none"
        raise InvalidData(path, "an NRRD header", found, "Copy it again from the download.")
    if any(line.lower().replace(b" ", b"").startswith(b"datafile:") for line in head.splitlines()):
        raise InvalidData(
            path, "voxels in the file itself", "a header that names another", "Save it as one file, or as .nii.gz."
        )
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _refusal(path, error) from error
    return reader


def geometry_of(reader: Any) -> Geometry:
    """Grid of the first three axes of an opened file that has as many."""
    size, spacing, origin = reader.GetSize(), reader.GetSpacing(), reader.GetOrigin()
    direction = np.asarray(reader.GetDirection()).reshape(reader.GetDimension(), -1)[:3, :3]
    return Geometry(
        (int(size[2]), int(size[1]), int(size[0])),
        (float(spacing[2]), float(spacing[1]), float(spacing[0])),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(float(value) for value in direction.ravel()),
    )


def read_voxels(path: Path) -> NDArray[Any]:
    """Voxels, axes reversed: (Z, Y, X), or (C, Z, Y, X).

    Raises
    ------
    InvalidData: as ``open_nrrd``; voxels that end early or are corrupt.
    """
    import SimpleITK as sitk

    try:
        array: NDArray[Any] = sitk.GetArrayFromImage(open_nrrd(path).Execute())
    except RuntimeError as error:
        raise _refusal(path, error) from error
    return array


def _simpleitk(path: Path) -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        # Of the images for a challenge in another format: 264 MB for what it never meets.
        fix = "Convert it to .nii.gz, or where this is no image: python -m pip install SimpleITK."
        raise InvalidData(path, "another format; NRRD is read by SimpleITK", "no SimpleITK here", fix) from error
    return SimpleITK


def _refusal(path: Path, error: RuntimeError) -> InvalidData:
    last = str(error).strip().splitlines()[-1]
    return InvalidData(path, "an image ITK can read", last, "Copy it again from the download.")
