"""NRRD through SimpleITK, voxels in the same file: ITK would follow a header that names another to wherever it says.

Format: teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.errors import InvalidData

HEADER_BYTES = 1 << 20
"""More than any header; one that does not end within is refused, since its end may name a file."""

MOST_COMPRESSED = 1100
"""deflate cannot make anything more than 1032 times smaller (zlib.net/zlib_tech.html)."""

LEAST_STORED = {"raw": 1.0, "gzip": 1 / MOST_COMPRESSED, "gz": 1 / MOST_COMPRESSED, "hex": 2.0}
"""Bytes in the file for one of voxels, by the header's ``encoding``."""
TEXT = ("ascii", "text", "txt")
LEAST_TEXT = 2
"""A digit and what parts it from the next."""

CHUNK = 1 << 20
AGAIN = "Copy it again from the download."


def open_nrrd(path: Path) -> Any:
    """SimpleITK's reader with the header read, and nothing else.

    Raises
    ------
    InvalidData: no NRRD, its voxels are in another file, are not one number each, or are more than the file can hold.
    """
    sitk = _simpleitk(path)
    fields, end = _header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _refusal(path, error) from error
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in name or "label" in name:
        raise InvalidData(path, "voxels that are one number each", name, "Convert the file to such a type.")
    # ``64-bit float``, as ITK calls its types.
    _check_claim(path, fields, end, math.prod(reader.GetSize()), int(name.partition("-")[0]) // 8)
    return reader


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a header, names in lower case, of two of a name the last, as in teem; and the number of its bytes.

    Raises
    ------
    InvalidData: none, or one that names another file.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(HEADER_BYTES)
    except OSError as error:
        raise InvalidData(path, "an NRRD header", f"a file that does not open ({error.strerror})", AGAIN) from error
    blank = re.search(rb"\r?\n\r?\n", content)
    # Without the magic ITK would try its other formats.
    if not content.startswith(b"NRRD") or (blank is None and len(content) == HEADER_BYTES):
        raise InvalidData(path, "an NRRD header", f"{len(content)} bytes that are none", AGAIN)
    head = content if blank is None else content[: blank.start()]
    lines = (line.decode("latin-1") for line in head.splitlines() if not line.startswith(b"#"))
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip().lower(): value.strip().lower() for key, colon, value in pairs if colon}
    if any(key.replace(" ", "") == "datafile" for key in fields):
        fix = "Save it as one file, or as .nii.gz."
        raise InvalidData(path, "voxels in the file itself", "a header that names another", fix)
    return fields, len(content) if blank is None else blank.end()


def _check_claim(path: Path, fields: dict[str, str], end: int, voxels: int, itemsize: int) -> None:
    """Refuse a header that claims more voxels than the file can hold, before ITK asks for an array of that size.

    Raises
    ------
    InvalidData: the claim and the size of the file; an encoding that says nothing of the size.
    """
    encoding, length = fields.get("encoding", ""), path.stat().st_size - end
    if encoding not in (*LEAST_STORED, *TEXT):
        raise InvalidData(path, f"an encoding of {', '.join((*LEAST_STORED, *TEXT))}", encoding or "none", AGAIN)
    claimed = voxels * itemsize
    least = voxels * LEAST_TEXT - 1 if encoding in TEXT else claimed * LEAST_STORED[encoding]
    if least > length:
        found = f"data that ends early: a header that claims {claimed} bytes, followed by {length}"
        raise InvalidData(path, f"{voxels} voxels of {itemsize} bytes", found, AGAIN)


def geometry_of(path: Path, reader: Any) -> Geometry:
    """Grid of the first three axes of an opened file that has as many.

    Raises
    ------
    InvalidData: spacing that is not positive, an origin that is not finite, or directions that do not span space.
    """
    size, spacing, origin = reader.GetSize(), reader.GetSpacing(), reader.GetOrigin()
    direction = np.asarray(reader.GetDirection()).reshape(reader.GetDimension(), -1)[:3, :3]
    if not np.isfinite(spacing[:3]).all() or min(spacing[:3]) <= 0:
        raise InvalidData(path, "positive spacing", f"{spacing[:3]}", "Set the header's space directions.")
    if not np.isfinite(origin[:3]).all():
        raise InvalidData(path, "a finite space origin", f"{origin[:3]}", "Set the header's space origin.")
    if not np.isfinite(direction).all() or abs(np.linalg.det(direction)) < 1e-6:
        found = f"{direction.ravel().tolist()}"
        raise InvalidData(path, "three directions that span space", found, "Set the header's space directions.")
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

    reader = open_nrrd(path)
    _check_stream(path)
    try:
        array: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _refusal(path, error) from error
    return array


def _check_stream(path: Path) -> None:
    """Read compressed voxels to the end of their stream, so that its checksum is compared: ITK takes what it gets.

    Raises
    ------
    InvalidData: the stream ends early or is damaged.
    """
    fields, end = _header(path)
    if not fields["encoding"].startswith("gz") or {"line skip", "byte skip"} & set(fields):
        return
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        with path.open("rb") as stream:
            stream.seek(end)
            unpacked, packed = b"", stream.read(CHUNK)
            while not inflater.eof and (packed or unpacked):
                unpacked = inflater.decompress(packed, CHUNK)
                packed = inflater.unconsumed_tail or stream.read(CHUNK)
    except (OSError, zlib.error) as error:
        raise InvalidData(path, "a whole gzip stream", f"{error}", AGAIN) from error
    if not inflater.eof:
        raise InvalidData(path, "a whole gzip stream", "one that ends early", AGAIN)


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
    return InvalidData(path, "an image ITK can read", last, AGAIN)
