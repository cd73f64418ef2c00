"""Files that are whole or absent: everything is written beside its final name and renamed into place."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_box.disk import Needed, disk_errors, hidden_disk_errors
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.temporary import REPLACED_MARK, lock_folder, recover_replaced, remove, temporary_place

PARTIAL_MARK = ".nnbox-partial-"
FILLING = "filling"
SYNCS_AT_ONCE = 8
LARGEST_JSON = 256 << 20
"""Bytes; ``cases.json`` of a hundred thousand cases has about as many."""
PRIVATE = 0o600


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def write_beside(path: Path, needed: Needed = None) -> Iterator[Path]:
    """Yield a temporary path on the disk of ``path``; on success fsync it and rename it to ``path``.

    The temporary has the name of ``path``, so that a writer that looks at the suffix chooses the same format. If the
    block makes a folder, the folder is put in place as a whole and replaces an older one. On any error nothing is left
    behind and an older ``path`` stays as it was. What a killed process left of writing ``path`` goes.

    needed: see ``disk_errors``.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written; the message names the file.
    """
    path = Path(path)
    with disk_errors(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_replaced(path)
        with temporary_place(path.parent, path.name) as place, hidden_disk_errors(place):
            yield place / path.name
            _put(place / path.name, path)
            _sync(path.parent)


@contextmanager
def fill_beside(folder: Path, needed: Needed = None) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """Yield a temporary folder inside ``folder`` to write entries in, and a function that puts a finished one, by its
    name, in place: its files are on the disk first, and it is whole or absent, as with ``write_beside``.

    For many entries: the function returns at once, threads wait for the disk while the caller goes on, and a file
    system with a journal makes one commit of what waits together. All are in place when the block ends. An error in
    the block leaves those that were finished, and nothing else; what a killed process left goes with the next call.

    needed: of all entries; see ``disk_errors``.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written.
    """
    # Here, as writing a single file does not need it.
    from concurrent.futures import Future, ThreadPoolExecutor

    folder = Path(folder)
    waiting: deque[Future[None]] = deque()
    with disk_errors(folder, needed):
        folder.mkdir(parents=True, exist_ok=True)
        recover_replaced(folder / FILLING)
        with (
            temporary_place(folder, FILLING) as temporary,
            hidden_disk_errors(folder),
            ThreadPoolExecutor(SYNCS_AT_ONCE) as threads,
        ):

            def put(name: str) -> None:
                while waiting and waiting[0].done():
                    waiting.popleft().result()
                waiting.append(threads.submit(_put_entry, temporary / name, folder / name))

            yield temporary, put
            for one in waiting:
                one.result()
        _sync(folder)


def _put_entry(temporary: Path, path: Path) -> None:
    with disk_errors(path):
        _put(temporary, path)


def _put(temporary: Path, path: Path) -> None:
    """Rename a file or a folder to ``path``, what it holds on the disk first."""
    if temporary.is_dir():
        _put_folder(temporary, path)
    else:
        _finish(temporary)
        temporary.replace(path)


def _finish(file: Path) -> None:
    """Have a file on the disk, readable for whom the umask says: safetensors' own are for this user alone, which is of
    no use to a group that shares a workspace.
    """
    if file.stat().st_mode & 0o777 == PRIVATE:
        file.chmod(file.parent.stat().st_mode & 0o666)
    _sync(file)


def _put_folder(folder: Path, path: Path) -> None:
    """Rename a folder to ``path``, its files on the disk first; an older ``path`` goes (see ``recover_replaced``)."""
    for child in folder.rglob("*"):
        if child.is_file():
            _finish(child)
    if path.is_dir():
        older = folder.with_name(f"{REPLACED_MARK}{path.name}")
        path.rename(older)
        folder.rename(path)
        shutil.rmtree(older)
    else:
        folder.rename(path)


@contextmanager
def continue_beside(path: Path, needed: Needed = None) -> Iterator[tuple[Path, Path]]:
    """Yield two folders beside ``path``, one for what becomes ``path`` and one for notes on what of it is finished.

    Unlike ``write_beside`` they outlive an error and a killed process, so that the next call finds what was done. On
    success the first is put in place as a whole and the notes go. Folders without a file do not outlive an error.

    needed: of all that is left; see ``disk_errors``.

    Raises
    ------
    NnboxError: the disk is full, the folder cannot be written, or another process is writing ``path``.
    """
    path = Path(path)
    partial = path.with_name(f"{PARTIAL_MARK}{path.name}")
    content, notes = partial / "content", partial / "notes"
    with disk_errors(path, needed):
        content.mkdir(parents=True, exist_ok=True)
        notes.mkdir(exist_ok=True)
        lock = lock_folder(partial)
        if lock is None:
            raise NnboxError(f"{path}: another process is writing it. Wait for that one to end.")
        try:
            with hidden_disk_errors(partial):
                yield content, notes
                _put_folder(content, path)
                _sync(path.parent)
            remove(partial)
        finally:
            if not any(file.is_file() for part in (content, notes) for file in part.rglob("*")):
                remove(partial)
            os.close(lock)


def remove_partial(path: Path) -> None:
    """Delete what ``continue_beside`` left beside ``path``, unless a living process is at it."""
    partial = path.with_name(f"{PARTIAL_MARK}{path.name}")
    lock = lock_folder(partial)
    if lock is not None:
        remove(partial)
        os.close(lock)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a killed process leaves it whole or gone, never half: half of it may look like all.

    Raises
    ------
    OSError: it cannot be moved away.
    """
    recover_replaced(folder)
    with temporary_place(folder.parent, folder.name) as place:
        folder.rename(place / "gone")


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


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written.
    """
    with write_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all. NaN becomes null-safe ``NaN`` as nnU-Net writes
    it.
    """
    with write_beside(path) as temporary:
        save_json(temporary, value)


def save_json(path: Path, value: Any) -> None:
    """As ``write_json``, but straight to ``path``: for files in a folder that is itself put in place as a whole."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def null_undefined(value: Any) -> Any:
    """The same nested value with None for NaN and infinity, which standard JSON does not have, and with Python's own
    numbers for NumPy's.
    """
    if isinstance(value, Mapping):
        return {key: null_undefined(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [null_undefined(item) for item in value]
    # A number of NumPy, by what it has: commands that need no NumPy use this too.
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
