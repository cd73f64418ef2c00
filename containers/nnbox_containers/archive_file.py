"""The file an image is saved to and loaded from: plain or gzip; the same bytes for the same image."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

# Layers hold binaries and weights, which higher levels shrink by a percent or two at several times the time.
GZIP_LEVEL = 6
GZIP_MAGIC = b"\x1f\x8b"
PIECE_BYTES = 1 << 20


@contextmanager
def writer(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for an image archive; a name that ends in ``.gz`` is compressed, without name and time inside.

    Raises
    ------
    OSError: the file cannot be written, or the disk is full (also when it is closed).
    """
    with path.open("wb") as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", GZIP_LEVEL, fileobj=file, mtime=0) as compressed:
            yield cast(BinaryIO, compressed)


def pieces(path: Path) -> Iterator[bytes]:
    """Yield an image archive piece by piece, uncompressed where it is gzip: not every engine's API takes that.

    Raises
    ------
    OSError, EOFError, zlib.error: the file cannot be read, or its compression is damaged.
    """
    with path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        source = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file
        while piece := source.read(PIECE_BYTES):
            yield piece
