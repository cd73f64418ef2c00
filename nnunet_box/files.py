"""Files that are whole or absent: everything is written beside its final name and renamed into place."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnunet_box.errors import InvalidData, NnboxError

TEMPORARY_MARK = ".nnbox-tmp-"
REPLACED_MARK = "-old-"
PARTIAL_MARK = ".nnbox-partial-"
FILLING_MARK = f"{TEMPORARY_MARK}filling-"
SYNCS_AT_ONCE = 8
LARGEST_JSON = 256 << 20
"""Bytes; ``cases.json`` of a hundred thousand cases has about as many."""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    # It may not be there, or its parent may be a file: what cannot be is not left behind either.
    with suppress(OSError):
        path.unlink()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tell of a full disk, or a folder that cannot be written, as an ``NnboxError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise NnboxError(
            f"{path}: could not be written ({error.strerror or error}). Nothing was left half-written; "
            "free space or choose another --workspace, then run the same command again."
        ) from error


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success fsync it and rename it to ``path``.

    The temporary name keeps the suffixes of ``path``, so that a writer that looks at them chooses the same format.
    If the block makes a folder, the folder is put in place as a whole and replaces an older one.
    On any error nothing is left behind and an older ``path`` stays as it was.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written; the message names the file.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _put(temporary, path)
            _sync(path.parent)
    except BaseException:
        _remove(temporary)
        raise


@contextmanager
def fill_beside(folder: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """Yield a temporary folder inside ``folder`` to write entries in, and a function that puts a finished one, by its
    name, in place: its files are on the disk first, and it is whole or absent, as with ``write_beside``.

    For many entries: the function returns at once, threads wait for the disk while the caller goes on, and a file
    system with a journal makes one commit of what waits together. All are in place when the block ends. An error in
    the block leaves those that were finished, and nothing else; what a killed process left goes with the next call.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written.
    """
    # Here, as writing a single file does not need it.
    from concurrent.futures import Future, ThreadPoolExecutor

    folder = Path(folder)
    waiting: deque[Future[None]] = deque()
    with disk_errors(folder):
        temporary, lock = _new_filling(folder)
    try:
        _sweep_fillings(folder)
        with ThreadPoolExecutor(SYNCS_AT_ONCE) as threads:

            def put(name: str) -> None:
                while waiting and waiting[0].done():
                    waiting.popleft().result()
                waiting.append(threads.submit(_put_entry, temporary / name, folder / name))

            yield temporary, put
            for one in waiting:
                one.result()
        with disk_errors(folder):
            _sync(folder)
    finally:
        _remove(temporary)
        os.close(lock)


def _new_filling(folder: Path) -> tuple[Path, int]:
    """A temporary folder, and a lock on it that the kernel lets go of when this process dies, however it dies."""
    name = uuid.uuid4().hex[:8]
    unlocked = folder / f"{TEMPORARY_MARK}{name}"
    unlocked.mkdir(parents=True)
    lock = os.open(unlocked, os.O_RDONLY)
    # A network's file system may have no locks; nothing is swept there then.
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return unlocked.replace(folder / f"{FILLING_MARK}{name}"), lock


def _sweep_fillings(folder: Path) -> None:
    """Delete what killed processes were filling ``folder`` from; others may be filling it too."""
    for left in folder.glob(f"{FILLING_MARK}*"):
        with suppress(OSError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)
            finally:
                os.close(lock)


def _put_entry(temporary: Path, path: Path) -> None:
    with disk_errors(path):
        _put(temporary, path)


def _put(temporary: Path, path: Path) -> None:
    """Rename a file or a folder to ``path``, what it holds on the disk first."""
    if temporary.is_dir():
        _put_folder(temporary, path)
    else:
        _sync(temporary)
        temporary.replace(path)


def _put_folder(folder: Path, path: Path) -> None:
    """Rename a folder to ``path``, its files on the disk first; an older ``path`` goes."""
    for child in folder.rglob("*"):
        if child.is_file():
            _sync(child)
    if path.is_dir():
        older = path.with_name(f"{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}{REPLACED_MARK}{path.name}")
        path.rename(older)
        folder.rename(path)
        shutil.rmtree(older)
    else:
        folder.rename(path)


@contextmanager
def continue_beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield two folders beside ``path``, one for what becomes ``path`` and one for notes on what of it is finished.

    Unlike ``write_beside`` they outlive an error and a killed process, so that the next call finds what was done. On
    success the first is put in place as a whole and the notes go. Folders without a file do not outlive an error.

    Raises
    ------
    NnboxError: the disk is full, the folder cannot be written, or another process is writing ``path``.
    """
    path = Path(path)
    partial = path.with_name(f"{PARTIAL_MARK}{path.name}")
    content, notes = partial / "content", partial / "notes"
    with disk_errors(path):
        content.mkdir(parents=True, exist_ok=True)
        notes.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            # The kernel lets go of it when the process dies, however it dies.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise NnboxError(f"{path}: another process is writing it. Wait for that one to end.") from error
        try:
            yield content, notes
            _put_folder(content, path)
            _sync(path.parent)
            _remove(partial)
        finally:
            if partial.is_dir() and not any(child.is_file() for child in partial.rglob("*")):
                _remove(partial)
            os.close(lock)


def recover_replaced(path: Path) -> bool:
    """Put an older folder back where a process died between moving it away and moving the new one in.

    A folder cannot be replaced in one step. Returns whether there was something to put back.
    """
    if path.exists() or not path.parent.is_dir():
        return False
    for older in path.parent.glob(f"{TEMPORARY_MARK}*{REPLACED_MARK}{path.name}"):
        older.rename(path)
        return True
    return False


def sweep_temporaries(folder: Path) -> int:
    """Delete what a killed process left behind under ``folder``; return how many entries went."""
    stale = [path for path in folder.rglob(f"{TEMPORARY_MARK}*")] if folder.is_dir() else []
    for path in stale:
        _remove(path)
    return len(stale)


def sweep_stale(path: Path) -> int:
    """Delete what killed processes left beside ``path`` while writing it, and nothing of other names; return how many
    went.

    Unlike ``sweep_temporaries`` it is safe while another process writes another name in the same folder.
    """
    pattern = re.compile(rf"{re.escape(TEMPORARY_MARK)}[0-9a-f]{{8}}-(old-)?{re.escape(path.name)}")
    stale = [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)] if path.parent.is_dir() else []
    for entry in stale:
        _remove(entry)
    return len(stale)


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a second name of the file ``source``; a copy where the file system has no hard links.

    A second name costs no space. It is safe here, as files are replaced as a whole and never changed in place.

    Raises
    ------
    OSError: the source is not there, or the disk is full.
    """
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all. NaN becomes null-safe ``NaN`` as nnU-Net writes
    it.
    """
    with write_beside(path) as temporary:
        save_json(temporary, value)


def save_json(path: Path, value: Any) -> None:
    """As ``write_json``, but straight to ``path``: for files in a folder that is itself put in place as a whole."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _kind_of(facts: os.stat_result) -> str:
    if stat.S_ISREG(facts.st_mode):
        return f"{facts.st_size >> 20} MB"
    return "a folder" if stat.S_ISDIR(facts.st_mode) else "no regular file"


def read_json(path: Path, schema_version: int | None = None) -> Any:
    """Read JSON; with ``schema_version``, refuse a file of another version.

    Raises
    ------
    InvalidData: the file is missing, cannot be read, is longer than any of ours, is not JSON, or has another schema
    version.
    """
    path, again = Path(path), "Restore the file or run the step that writes it again."
    try:
        facts = path.stat()
        # A pipe or a device would be read for ever.
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST_JSON:
            raise InvalidData(path, f"a JSON file of at most {LARGEST_JSON >> 20} MB", _kind_of(facts), again)
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidData(path, "a JSON file", "no such file", "Run the step that writes it first.") from error
    except OSError as error:
        raise InvalidData(path, "a JSON file", f"one that does not open ({error.strerror})", again) from error
    except RecursionError as error:
        raise InvalidData(path, "valid JSON", "brackets without end", again) from error
    except ValueError as error:
        # Not UTF-8, not JSON, or a number of thousands of digits.
        raise InvalidData(path, "valid JSON", str(error), again) from error
    if schema_version is not None:
        found = value.get("schema_version") if isinstance(value, dict) else None
        if found != schema_version:
            raise InvalidData(
                path,
                f"schema version {schema_version}",
                f"version {found}",
                "It was written by another nnunet_box; run the step that writes it again with this one.",
            )
    return value
