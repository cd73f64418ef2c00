"""MetaImage (``.mhd`` beside its ``.raw`` or ``.zraw``, ``.mha``): a text header that names the file of its voxels.

The header is read and held against the file it names before a voxel is: a header can claim any size and name any file.
Format: itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.geometry import Geometry, is_spacing
from nnunet_box.errors import InvalidData
from nnunet_box.files import write_beside

HEADER_BYTES = 1 << 16
"""A header is a few hundred bytes; no more than this is searched for its end."""

CHUNK = 1 << 20
MOST_COMPRESSED = 1100
"""deflate cannot make anything more than 1032 times smaller (zlib.net/zlib_tech.html)."""

LAST_KEY = "ElementDataFile"
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # four bytes in MetaIO, whatever the machine's long is
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
DIRECTION_KEYS = ("TransformMatrix", "Rotation", "Orientation")
ORIGIN_KEYS = ("Offset", "Position", "Origin")
SPACING_KEYS = ("ElementSpacing", "ElementSize")
GRID_KEYS = (*DIRECTION_KEYS, *ORIGIN_KEYS, "CenterOfRotation", "AnatomicalOrientation", *SPACING_KEYS, "DimSize")
"""What says where the voxels lie; the synonyms are MetaIO's."""

AGAIN = "Copy it again from the download."


@dataclass(frozen=True)
class MetaImage:
    """A header whose claims hold: the file it names is there, in its own folder, and long enough.

    fields: key to value, as text. size: voxels along (X, Y, Z[, C]). dtype: of the stored voxels, with byte order.
    data: file of the voxels. start: their first byte in it. compressed: a zlib stream.
    """

    path: Path
    fields: dict[str, str]
    size: tuple[int, ...]
    dtype: np.dtype[np.generic]
    data: Path
    start: int
    compressed: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.size) * self.dtype.itemsize


def open_metaimage(path: Path) -> MetaImage:
    """Read and check a header; nothing of the size it claims is allocated, and no file outside its folder is touched.

    Raises
    ------
    InvalidData: no MetaImage header; a kind that is not read (text voxels, several values a voxel, one file a slice);
    a data file that is missing, outside the header's folder (absolute, ``..`` or by a link), or not of the size that
    the header claims.
    """
    fields, end = _fields(path)
    dimensions = _numbers(path, fields, ("NDims",), 1, ())[0]
    if dimensions not in (3, 4):
        raise InvalidData(path, "NDims 3, or 4 with channels last", f"{fields['NDims']}", "Convert it to a 3-D volume.")
    sizes = _numbers(path, fields, ("DimSize",), int(dimensions), ())
    if any(size < 1 or size != int(size) for size in sizes):
        raise InvalidData(path, "voxels along each axis in DimSize", fields["DimSize"], AGAIN)
    _refuse_other_kinds(path, fields)
    # Where a header has both, ITK goes by the first.
    big = _yes(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB")))
    dtype = np.dtype(TYPES[fields["ElementType"]]).newbyteorder(">" if big else "<")
    local = fields[LAST_KEY].upper() == "LOCAL"
    data = path if local else _data_file(path, fields[LAST_KEY])
    size = tuple(int(length) for length in sizes)
    image = MetaImage(path, fields, size, dtype, data, end if local else 0, _yes(fields.get("CompressedData")))
    length = data.stat().st_size
    skipped = int(_numbers(path, fields, ("HeaderSize",), 1, (0.0,))[0])
    if skipped > 0:
        image = replace(image, start=skipped)
    elif skipped < 0 and not image.compressed:
        # HeaderSize -1: the voxels are the end of the file.
        image = replace(image, start=max(image.start, length - image.nbytes))
    stored = length - image.start
    if stored * MOST_COMPRESSED < image.nbytes if image.compressed else stored != image.nbytes:
        raise _wrong_size(image, f"{max(0, stored)} bytes in {data.name}")
    return image


def read_voxels(image: MetaImage) -> NDArray[np.generic]:
    """Voxels (Z, Y, X), or (C, Z, Y, X) where the header has a fourth axis, in the machine's byte order.

    Raises
    ------
    InvalidData: the voxels end early or are corrupt.
    """
    try:
        with image.data.open("rb") as stream:
            stream.seek(image.start)
            if image.compressed:
                content = _inflate(image, iter(lambda: stream.read(CHUNK), b""))
                flat = np.frombuffer(content, dtype=image.dtype)
            else:
                flat = np.fromfile(stream, dtype=image.dtype, count=math.prod(image.size))
    except OSError as error:
        raise InvalidData(image.data, "voxels that can be read", f"{error.strerror or error}", AGAIN) from error
    if flat.nbytes != image.nbytes:
        raise _wrong_size(image, f"{flat.nbytes} bytes in {image.data.name}")
    return flat.astype(image.dtype.newbyteorder("="), copy=False).reshape(image.size[::-1])


def _inflate(image: MetaImage, chunks: Iterable[bytes]) -> bytearray:
    """What is in the stream, up to what the header claims: memory grows with the file, not with the claim."""
    # zlib or gzip, as the stream's first bytes say.
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    content = bytearray()
    try:
        for chunk in chunks:
            content += inflater.decompress(chunk, image.nbytes + 1 - len(content))
            if len(content) > image.nbytes or inflater.eof:
                break
    except zlib.error as error:
        raise InvalidData(image.data, "compressed voxels", f"a corrupt stream ({error})", AGAIN) from error
    if len(content) != image.nbytes or not inflater.eof:
        more = "more than " if len(content) > image.nbytes else ""
        raise _wrong_size(image, f"{more}{min(len(content), image.nbytes)} bytes in the stream of {image.data.name}")
    return content


def _wrong_size(image: MetaImage, found: str) -> InvalidData:
    shape = " x ".join(str(size) for size in image.size)
    return InvalidData(
        image.path,
        f"{image.nbytes} bytes of voxels ({shape} {image.fields['ElementType']})",
        found,
        "Copy both files again from the download; one of them is cut off or belongs to another image.",
    )


def geometry_of(image: MetaImage) -> Geometry:
    """Grid of the first three axes. MetaIO keeps the direction of one axis a line, ITK one a column.

    Raises
    ------
    InvalidData: spacing that is not positive, or directions that do not span space.
    """
    axes = len(image.size)
    unit = tuple(float(value) for value in np.eye(axes).ravel())
    spacing = _numbers(image.path, image.fields, SPACING_KEYS, axes, (1.0,) * axes)
    origin = _numbers(image.path, image.fields, ORIGIN_KEYS, axes, (0.0,) * axes)
    matrix = _numbers(image.path, image.fields, DIRECTION_KEYS, axes * axes, unit)
    directions = np.asarray(matrix).reshape(axes, axes)[:3, :3].T
    if not is_spacing(spacing):
        raise InvalidData(image.path, "positive spacing", f"{spacing}", "Set ElementSpacing to the real spacing.")
    if abs(np.linalg.det(directions)) < 1e-6:
        raise InvalidData(image.path, "three directions in TransformMatrix", f"{matrix}", AGAIN)
    return Geometry(
        (image.size[2], image.size[1], image.size[0]),
        (spacing[2], spacing[1], spacing[0]),
        (origin[0], origin[1], origin[2]),
        tuple(float(value) for value in directions.ravel()),
    )


def grid_fields(image: MetaImage) -> dict[str, str]:
    """The fields that say where the voxels lie, as the header spells them."""
    return {key: image.fields[key] for key in GRID_KEYS if key in image.fields}


def write_labels(path: Path, labels: NDArray[np.uint8], fields: Mapping[str, str]) -> None:
    """Write labels (Z, Y, X) as ``path`` (a ``.mhd``) and the ``.raw`` beside it, uncompressed, MET_UCHAR.

    fields: as ``grid_fields`` gives them; taken over letter by letter, so that no number is rounded and no sign turned.
    The ``.raw`` is put in place first: where the ``.mhd`` is, both are.

    Raises
    ------
    InvalidData: the labels have another shape than DimSize.
    NnboxError: the disk is full or the folder cannot be written.
    """
    voxels = path.with_suffix(".raw")
    header_text = _labels_header(path, labels, fields, {"CompressedData": "False"}, voxels.name)
    # The last to be opened is the first to be put in place.
    with write_beside(path) as header, write_beside(voxels) as raw:
        np.ascontiguousarray(labels, dtype=np.uint8).tofile(raw)
        header.write_text(header_text, encoding="utf-8")


def save_compressed_labels(path: Path, labels: NDArray[np.uint8], fields: Mapping[str, str]) -> None:
    """Write labels (Z, Y, X) straight to ``path`` as one ``.mha``: MET_UCHAR, compressed.

    fields: as ``grid_fields`` or ``grid_as_fields`` gives them.

    Raises
    ------
    InvalidData: the labels have another shape than DimSize.
    """
    voxels = zlib.compress(np.ascontiguousarray(labels, dtype=np.uint8).data, 6)
    compression = {"CompressedData": "True", "CompressedDataSize": str(len(voxels))}
    path.write_bytes(_labels_header(path, labels, fields, compression, "LOCAL").encode() + voxels)


def grid_as_fields(geometry: Geometry) -> dict[str, str]:
    """The fields that say where voxels lie, for a grid that comes from another format; no digit is lost."""
    directions = np.asarray(geometry.direction).reshape(3, 3).T.ravel()
    numbers: dict[str, Iterable[float]] = {
        "TransformMatrix": directions,
        "Offset": geometry.origin,
        "ElementSpacing": geometry.spacing[::-1],
    }
    fields = {key: " ".join(repr(float(value)) for value in values) for key, values in numbers.items()}
    return fields | {"DimSize": " ".join(str(length) for length in reversed(geometry.shape))}


def _labels_header(
    path: Path, labels: NDArray[np.uint8], fields: Mapping[str, str], compression: Mapping[str, str], voxels: str
) -> str:
    size = " ".join(str(length) for length in reversed(labels.shape))
    if fields["DimSize"].split() != size.split():
        raise InvalidData(path, f"labels of DimSize {fields['DimSize']}", size, "Predict this case again.")
    lines = {
        "ObjectType": "Image",
        "NDims": str(labels.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        **compression,
        **fields,
        "ElementType": "MET_UCHAR",
        LAST_KEY: voxels,
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields up to ElementDataFile, which ends a header, and the number of bytes up to there."""
    expected = f"a MetaImage header: lines of Key = Value, the last of them {LAST_KEY}"
    fields: dict[str, str] = {}
    try:
        with path.open("rb") as stream:
            content = stream.read(HEADER_BYTES)
    except OSError as error:
        raise InvalidData(path, expected, f"a file that does not open ({error.strerror})", AGAIN) from error
    end = 0
    while LAST_KEY not in fields:
        line, separator, _ = content[end:].partition(b"\n")
        end += len(line) + len(separator)
        key, equals, value = line.decode("utf-8", errors="replace").partition("=")
        key, value = key.strip(), value.strip()
        if key and (not equals or key in fields):
            found = f"{key} twice" if key in fields else f"a line {line[:40]!r}"
            raise InvalidData(path, expected, found, AGAIN)
        if key:
            fields[key] = value
        if not separator and LAST_KEY not in fields:
            raise InvalidData(path, expected, f"{len(content)} bytes without it", AGAIN)
    missing = [key for key in ("NDims", "DimSize", "ElementType") if key not in fields]
    if missing:
        raise InvalidData(path, expected, f"no {', '.join(missing)}", AGAIN)
    return fields, end


def _numbers(
    path: Path, fields: Mapping[str, str], keys: Iterable[str], count: int, default: tuple[float, ...]
) -> tuple[float, ...]:
    key = next((key for key in keys if key in fields), None)
    if key is None:
        return default
    try:
        values = tuple(float(value) for value in fields[key].split())
    except ValueError:
        values = ()
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise InvalidData(path, f"{count} number{'s' * (count > 1)} in {key}", fields[key] or "nothing", AGAIN)
    return values


def _yes(value: str | None) -> bool:
    return value is not None and value.lower() in ("true", "1")


def _refuse_other_kinds(path: Path, fields: Mapping[str, str]) -> None:
    fix = "Save it as one 3-D volume with a single number a voxel."
    if fields["ElementType"] not in TYPES:
        raise InvalidData(path, f"an ElementType of {', '.join(TYPES)}", fields["ElementType"] or "none", fix)
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise InvalidData(path, "one number a voxel", f"{fields['ElementNumberOfChannels']} of them", fix)
    if "BinaryData" in fields and not _yes(fields["BinaryData"]):
        raise InvalidData(path, "binary voxels", f"BinaryData = {fields['BinaryData']}", fix)


def _data_file(path: Path, name: str) -> Path:
    """The file a header names, in the header's own folder or below it."""
    expected = f"{LAST_KEY} naming one file beside the header"
    fix = "Bring the voxels beside the header and name them there; nothing else is read because a file says so."
    if not name or name.split()[0].upper() == "LIST" or "%" in name:
        raise InvalidData(path, expected, f"{name or 'nothing'} (one file a slice)", "Save it as one 3-D volume.")
    for kind in (PurePosixPath(name), PureWindowsPath(name)):
        if kind.is_absolute() or kind.anchor or ".." in kind.parts:
            raise InvalidData(path, expected, f"{name}, outside the header's folder", fix)
    file = path.parent / name
    try:
        inside, present = file.resolve().is_relative_to(path.parent.resolve()), file.is_file()
    except (OSError, RuntimeError, ValueError):
        # No name a file can have, or a link to itself.
        inside, present = True, False
    if not inside:
        raise InvalidData(path, expected, f"{name}, a link out of the header's folder", fix)
    if not present:
        fix = f"Copy both again; where both were renamed, {LAST_KEY} in the header has to say the new name."
        raise InvalidData(path, f"the .raw file it names beside it ({name})", "no such file", fix)
    return file
