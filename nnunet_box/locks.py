"""Locks between commands that work in the same workspace, on one machine or on several with a shared file system."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from nnunet_box.disk import disk_errors
from nnunet_box.progress import say

LOOK_EVERY_SECONDS = 0.5
TELL_EVERY_SECONDS = 300.0
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

_held: dict[Path, int] = {}
"""Locks of this process and how often: closing any descriptor of such a file would give the lock away."""


@contextmanager
def held(file: Path, what: str) -> Iterator[None]:
    """Hold ``file`` as a lock; whoever comes second waits and is told who has it.

    The kernel keeps the lock for this process alone, not for those it starts, and lets go of it when the process dies,
    however it dies: the file of a dead holder is no obstacle. The file stays, as removing it would let two in. The same
    process may hold it more than once. Where the file system has no locks, a message says so and nothing is held.

    what: what the holder is doing, for those who wait.
    """
    file = file.resolve()
    if file in _held:
        _held[file] += 1
        try:
            yield
        finally:
            _held[file] -= 1
        return
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if _taken(descriptor, file):
            _held[file] = 1
            with disk_errors(file):
                _sign(descriptor, what)
        yield
    finally:
        _held.pop(file, None)
        os.close(descriptor)


def holder(file: Path) -> dict[str, Any] | None:
    """Who holds ``file`` (``host``, ``pid``, ``command``, ``since``, ``what``); None where nobody else does."""
    if file.resolve() in _held:
        return None
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return _signature(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _taken(descriptor: int, file: Path) -> bool:
    told = 0.0
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            now = time.monotonic()
            if not told or now - told >= TELL_EVERY_SECONDS:
                told = now
                say(f"Waiting for {describe(_signature(descriptor))}")
            time.sleep(LOOK_EVERY_SECONDS)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            say(f"{file.parent}: this file system has no locks; see to it that no other command works here.")
            return False


def describe(found: dict[str, Any]) -> str:
    """A holder in words."""
    return (
        f"process {found.get('pid', '?')} on {found.get('host', '?')} ({found.get('command', 'nnbox')}, since "
        f"{found.get('since', '?')}): it has {found.get('what', 'what is needed')}."
    )


def _sign(descriptor: int, what: str) -> None:
    signature = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": " ".join(["nnbox", *sys.argv[1:]]),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "what": what,
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(signature).encode(), 0)


def _signature(descriptor: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(os.pread(descriptor, 65536, 0))
        return found
    except ValueError:
        return {}  # Between taking and signing.
