"""The file an image is saved to: plain or gzip by its name, and the same bytes for the same image."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

# Layers hold binaries and weights, which higher levels shrink by a percent or two at several times the time.
GZIP_LEVEL = 6


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
