"""Room on a disk: how much is free, and a message that says how much is needed where once it does not suffice."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_box.errors import NnboxError
from nnunet_box.progress import say

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = tuple(os.strerror(number) for number in FULL)
NEXT_TO_NOTHING = 64 << 10
"""Bytes free after a failed write that prove the disk full where the library does not say what failed (blosc2, ITK,
numpy's ``tofile``); a file system keeps the last few for itself."""

Needed = float | Callable[[], float] | None
"""Bytes still to be written; a function where that changes on the way, None where nobody knows."""


def free_bytes(path: Path) -> int | None:
    """Bytes this user may still write at ``path``, which need not exist yet; None where the system does not tell."""
    try:
        facts = os.statvfs(existing(path))
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize


def existing(path: Path) -> Path:
    """``path`` or the nearest folder above it that is there."""
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def in_units(count: float) -> str:
    """Bytes as a person reads them: ``12.3 MB``; decimal, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def disk_errors(path: Path, needed: Needed = None) -> Iterator[None]:
    """Tell of a full disk, or a folder that cannot be written, as an ``NnboxError`` that names ``path``.

    needed: about what the block writes. Of a full disk the message says how many bytes are needed and how many are
    free, in which folder; what the block left half-written has to be gone by the time its error gets here.
    """
    try:
        yield
    except OSError as error:
        room = _room(path, needed) if error.errno in FULL else ""
        raise NnboxError(
            f"{path}: could not be written ({error.strerror or error}).{room} Nothing was left half-written; free "
            "space or choose another --workspace, then run the same command again."
        ) from error


@contextmanager
def hidden_disk_errors(folder: Path) -> Iterator[None]:
    """Within ``disk_errors``, before anything is tidied up: an error that a library raised as the disk of ``folder`` is
    full becomes the ``OSError`` that it hides.
    """
    try:
        yield
    except NnboxError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        free = free_bytes(folder)
        if any(words in str(error) for words in FULL_WORDS) or (free is not None and free < NEXT_TO_NOTHING):
            raise OSError(errno.ENOSPC, FULL_WORDS[0]) from error
        raise


def _room(path: Path, needed: Needed) -> str:
    folder = existing(path.parent)
    free = free_bytes(folder)
    count = needed() if callable(needed) else needed
    if free is None:
        return "" if count is None else f" It needs about {in_units(count)} in {folder}."
    if count is None:
        return f" It needs more than the {in_units(free)} that are free in {folder}."
    return f" It needs about {in_units(count)} in {folder}, where {in_units(free)} are free."


def tell_if_tight(folder: Path, needed: float, what: str) -> None:
    """Say so beforehand where ``what`` may come to need more bytes than are free in ``folder``. No refusal: what is
    needed is an estimate, and others may make room meanwhile.
    """
    free = free_bytes(folder)
    if free is not None and needed > free:
        say(f"{what} may need up to {in_units(needed)} in {folder}, where {in_units(free)} are free.")
