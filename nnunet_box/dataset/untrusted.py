"""Downloads that nobody vouches for: what is held against a limit or a border before anything is read because of it."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from nnunet_box.errors import InvalidData

MOST_COMPRESSED = 1100
"""deflate cannot make anything more than 1032 times smaller (zlib.net/zlib_tech.html)."""

LARGEST_EXTENSION = 16 << 20
"""Bytes of a NIfTI header with its extensions; they are read as a whole."""

GZIP_CHUNK = 1 << 20
TRAILING = 1 << 20
"""Bytes a stream may have after its last voxel: some writers pad."""

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
READ_BY_ADAPTERS = (".nii", ".gz", ".mhd", ".mha", ".raw", ".zraw", ".nrrd", ".json", ".cfg", ".md", ".txt", ".csv")
AGAIN = "Copy it again from the download."


def check_source(source: Path) -> None:
    """Refuse a packed download, and a folder with a link to somewhere else.

    Archives are not unpacked here: a download has up to 54 GB, would lie on the disk twice, and what an archive's names
    and links ask for is better left to an unpacker the person chose. Links that leave the folder would make a data set,
    and so a bundle, out of files that nobody meant to give. Links inside it are followed.

    Raises
    ------
    InvalidData: one of the two.
    """
    source = Path(source)
    if source.is_file():
        kind = "an archive" if source.name.lower().endswith(ARCHIVES) else "a file"
        fix = "Unpack it (unzip, tar -xf) and give the folder; nothing is read from inside archives."
        raise InvalidData(source, "the folder of an unpacked download", kind, fix)
    root = source.resolve()
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            if not path.is_symlink() or path.resolve().is_relative_to(root):
                continue
            if path.is_dir() or path.suffix.lower() in READ_BY_ADAPTERS:
                raise InvalidData(
                    path,
                    "files of the download itself",
                    f"a link out of its folder, to {path.readlink()}",
                    "Copy what it points to in its place, or give the folder that really holds the data.",
                )


def unpacks_within(path: Path, most_bytes: int | None) -> bool:
    """Read a gzip file to its end, so that its checksum is compared; False as soon as it is longer than ``most_bytes``.

    Raises
    ------
    OSError, EOFError, zlib.error: cut off or damaged.
    """
    length = 0
    with gzip.open(path) as stream:
        while chunk := stream.read(GZIP_CHUNK):
            length += len(chunk)
            if most_bytes is not None and length > most_bytes:
                return False
    return True


def nifti_claim(path: Path) -> tuple[int, tuple[int, ...]] | None:
    """Bytes that a NIfTI header claims for itself, its extensions and its voxels, and their shape (X, Y, Z, ...); None
    where it is no such header.

    Raises
    ------
    InvalidData: extensions longer than they may be.
    """
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            return _claimed(path, stream)
    except (OSError, EOFError, zlib.error):
        # Reading will say what is wrong with it.
        return None


def _claimed(path: Path, stream: IO[bytes] | gzip.GzipFile) -> tuple[int, tuple[int, ...]] | None:
    raw = stream.read(nibabel.Nifti2Header.sizeof_hdr)
    kinds: tuple[Any, ...] = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    sizes = {int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big")}
    kind = next((kind for kind in kinds if kind.sizeof_hdr in sizes and len(raw) >= kind.sizeof_hdr), None)
    if kind is None:
        return None
    header = kind(raw[: kind.sizeof_hdr], check=False)
    start = float(header["vox_offset"])
    if not 0 <= start <= LARGEST_EXTENSION:
        raise InvalidData(path, f"voxels that start within {LARGEST_EXTENSION} bytes", f"vox_offset {start:g}", AGAIN)
    stream.seek(kind.sizeof_hdr)
    at = kind.sizeof_hdr + 4
    extended = stream.read(4)[:1] not in (b"", b"\0")
    while extended and at + 16 <= start:
        size = int(np.frombuffer(stream.read(4).ljust(4, b"\0"), np.dtype("i4").newbyteorder(header.endianness))[0])
        if not 8 <= size <= start - at:
            raise InvalidData(path, "header extensions that end before the voxels", f"one of {size} bytes", AGAIN)
        at += size
        stream.seek(at)
    try:
        # By the type, as readers go: bitpix may say less.
        itemsize = header.get_data_dtype().itemsize
    except (HeaderDataError, KeyError) as error:
        found = f"datatype {int(header['datatype'])}"
        raise InvalidData(path, "a type of voxels that is read", found, "Convert the file to such a type.") from error
    axes = min(max(int(header["dim"][0]), 0), 7)
    shape = tuple(int(length) for length in header["dim"][1 : axes + 1])
    return int(start) + math.prod(max(length, 0) for length in shape) * itemsize, shape


def check_nifti_claim(path: Path) -> bool:
    """Refuse a header that claims more voxels than the file can hold, before an array of that size is asked for.
    Returns whether there is a NIfTI header that claims anything.

    Raises
    ------
    InvalidData: the claim, and the size of the file.
    """
    claim, size = nifti_claim(path), path.stat().st_size
    if claim is None:
        return False
    claimed, shape = claim
    compressed = path.name.lower().endswith(".gz")
    if claimed > (size * MOST_COMPRESSED + TRAILING if compressed else size):
        found = f"data that ends early: a header that claims {claimed} bytes, in a file of {size}"
        raise InvalidData(path, f"voxels of shape {shape}", found, AGAIN)
    return True


def check_gzip(path: Path) -> None:
    """Read a ``.gz`` to its end, so that its checksum is compared: a file cut after the last voxel, or with a flipped
    bit, opens. No more is unpacked than its NIfTI header claims.

    Raises
    ------
    InvalidData: the stream ends early, fails its checksum, or goes on after its voxels.
    """
    if not path.name.lower().endswith(".gz"):
        return
    claim = nifti_claim(path) if path.is_file() else None
    try:
        within = unpacks_within(path, claim[0] + TRAILING if claim is not None else None)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidData(
            path, "a whole gzip file", f"{error}", "Copy it again from the download; the copy is incomplete."
        ) from error
    if claim is not None and not within:
        raise InvalidData(path, f"a stream of {claim[0]} bytes, as its header claims", "one that goes on", AGAIN)


def drain(path: Path, stream: gzip.GzipFile) -> None:
    """Read a stream from behind its voxels to its end.

    Raises
    ------
    InvalidData: it goes on for longer than it may. OSError, EOFError, zlib.error: damaged.
    """
    rest = 0
    while rest <= TRAILING and (chunk := stream.read(GZIP_CHUNK)):
        rest += len(chunk)
    if rest > TRAILING:
        check_gzip(path)  # It says how much was claimed.
