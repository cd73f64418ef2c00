"""Reading a zip that nobody vouches for: names are compared, never followed; sizes are held against a limit first."""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from nnunet_box.dataset.untrusted import unpacks_within
from nnunet_box.errors import InvalidData

CHUNK = 1 << 20
LARGEST_DIRECTORY = 4 << 20
"""Bytes of a zip's table of contents: some 40,000 entries. It is read as a whole, so it needs a limit."""

ENCRYPTED = 0x1
READ_EVERYWHERE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DRIVE = re.compile(r"[A-Za-z]:")
GZIP_MAGIC = b"\x1f\x8b"


class _Bounded(io.BufferedReader):
    """A file that hands out no more at once than any honest zip needs."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"a table of contents of {size} bytes")
        return super().read(size)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive, with its table of contents read.

    Raises
    ------
    InvalidData: no such file, no zip, or one that is cut off.
    """
    if not path.is_file():
        raise InvalidData(path, "a zip archive", "no such file", "Make it: nnbox build-submission archive.")
    try:
        return zipfile.ZipFile(_Bounded(io.FileIO(path)))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        with path.open("rb") as stream:
            cut = stream.read(2) == b"PK"
        found = f"a zip that is cut off or damaged ({error})" if cut else f"no zip ({error})"
        raise InvalidData(
            path, "a whole zip archive", found, "Make it again: nnbox build-submission archive."
        ) from error


def objection(info: zipfile.ZipInfo) -> tuple[str, str] | None:
    """What is wrong with a member by its entry alone, as (expected, found); None where nothing is."""
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if name.startswith(("/", "\\")) or DRIVE.match(name):
        return "a name relative to the archive's root", f"the absolute name {name!r}"
    if "\\" in name or "\0" in name:
        return "names with / between folders", f"{name!r}"
    if ".." in PurePosixPath(name).parts:
        return "a name inside the archive", f"{name!r}, which leads out of it"
    if kind == stat.S_IFLNK:
        return "a regular file", "a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a regular file", "a device, pipe or socket"
    if info.flag_bits & ENCRYPTED:
        return "a file anyone can read", "an encrypted one"
    if info.compress_type not in READ_EVERYWHERE:
        return "stored or deflated", f"compression method {info.compress_type}, which not every unzip reads"
    return None


def copy_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, most_bytes: int) -> None:
    """Copy one member to ``target``, a path of the caller's choice, and see its checksum hold.

    Raises
    ------
    InvalidData: larger than ``most_bytes`` (by its entry, before anything is read), cut off, or damaged. The error's
    file is the member's name.
    """
    again = "Make the archive again."
    if info.file_size > most_bytes:
        raise InvalidData(
            info.filename, f"at most {most_bytes} bytes for its image's shape", f"{info.file_size} bytes", again
        )
    try:
        with archive.open(info) as source, target.open("wb") as written:
            while chunk := source.read(CHUNK):
                written.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise InvalidData(info.filename, "a whole file", f"a cut off or damaged one ({error})", again) from error


def check_compression(file: Path, name: str, most_bytes: int) -> None:
    """Hold a file's content against the ending of its name, and a ``.gz``'s stream against ``most_bytes``.

    Raises
    ------
    InvalidData: compressed where it should not be or the reverse; a stream that is damaged or longer than
    ``most_bytes``.
    """
    with file.open("rb") as stream:
        compressed = stream.read(2) == GZIP_MAGIC
    if compressed != name.endswith(".gz"):
        expected, found = ("gzip", "no gzip") if name.endswith(".gz") else ("no gzip", "gzip")
        raise InvalidData(
            name, f"{expected} content, as its name says", f"{found} content", "Predict again, or (de)compress it."
        )
    if not compressed:
        return
    try:
        within = unpacks_within(file, most_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidData(
            name, "a whole gzip stream", f"a cut off or damaged one ({error})", "Predict this case again."
        ) from error
    if not within:
        raise InvalidData(
            name,
            f"at most {most_bytes} bytes when unpacked, for its image's shape",
            "a gzip stream of more",
            "Predict this case again.",
        )
