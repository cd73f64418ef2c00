"""Processes below a process, as ``/proc`` has them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def parents() -> dict[int, int]:
    """Process to the one that started it, of all there are."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    return found


def below(top: int) -> list[int]:
    """A process and all that it and its children have started."""
    parent = parents()
    found = [top]
    for one in found:
        found += [pid for pid, above in parent.items() if above == one]
    return found


def command_of(pid: int) -> list[str]:
    """Its words; none where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
