"""Temporary folders beside what is written: locked while their process lives, recognised as left over when it does not.

The lock is on a file in the folder, held open by the process that made it. The kernel lets go of it when the process
ends, however it ends. On a network's file system an exclusive lock needs a file open for writing, hence no lock on the
folder itself.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_MARK = ".nnbox-tmp-"
REPLACED_MARK = "replaced-"
LOCK = ".lock"


def remove(path: Path) -> None:
    """Delete a file or a folder; one that is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    # It may not be there, or its parent may be a file: what cannot be is not left behind either.
    with suppress(OSError):
        path.unlink()


@contextmanager
def temporary_place(folder: Path, name: str) -> Iterator[Path]:
    """Yield a new folder below ``folder`` for what is to be called ``name``; it goes when the block ends.

    Raises
    ------
    OSError: it cannot be made.
    """
    lock = None
    while lock is None:
        place = folder / f"{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}-{name}"
        try:
            place.mkdir()
            # Who sweeps at this very moment may take it for a left one: another one, then.
            lock = lock_folder(place)
        except BaseException:
            remove(place)
            raise
    try:
        yield place
    finally:
        remove(place)
        os.close(lock)


def lock_folder(folder: Path) -> int | None:
    """Lock a folder for as long as the file returned is open; None where another process has it.

    A file system without locks lets everybody have it.

    Raises
    ------
    OSError: the folder cannot be written.
    """
    file = folder / LOCK
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == file.stat().st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        return lock
    os.close(lock)
    return None


def recover_replaced(path: Path) -> None:
    """Finish or clear away what killed processes were doing in place of ``path``; what a living one does stays.

    A folder cannot be replaced in one step. Where a process died between moving the older one away and moving the new
    one in, the new one, which is whole, is moved in.
    """
    pattern = re.compile(rf"{re.escape(TEMPORARY_MARK)}[0-9a-f]{{8}}-{re.escape(path.name)}")
    _sweep(path.parent, pattern)


def sweep_left(folder: Path) -> None:
    """As ``recover_replaced``, for everything directly in ``folder``."""
    _sweep(folder, re.compile(rf"{re.escape(TEMPORARY_MARK)}.*"))


def sweep_temporaries(folder: Path) -> int:
    """Delete every temporary below ``folder``, those of living processes too; return how many went. For a process that
    is about to end in the middle of its own writing.
    """
    found = [path for path in folder.rglob(f"{TEMPORARY_MARK}*")] if folder.is_dir() else []
    for path in found:
        remove(path)
    return len(found)


def _sweep(folder: Path, pattern: re.Pattern[str]) -> None:
    try:
        left = [folder / entry.name for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for place in left:
        # It may go at any moment, by its own process or by another that sweeps.
        with suppress(OSError):
            if place.is_dir():
                _clear(place)
            else:
                place.unlink()


def _clear(place: Path) -> None:
    lock = os.open(place / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Refused while its process lives, and where the file system has no locks: nothing is swept there.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for older in place.glob(f"{REPLACED_MARK}*"):
            name = older.name.removeprefix(REPLACED_MARK)
            path, new = place.parent / name, place / name
            if not path.exists():
                (new if new.exists() else older).rename(path)
        remove(place)
    finally:
        os.close(lock)
