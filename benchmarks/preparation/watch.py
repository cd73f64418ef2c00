"""A command, and the memory of all processes that it starts."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY_SECONDS = 0.05


@dataclass(frozen=True)
class Watched:
    """seconds: from start to end. output: its stdout. largest_bytes: most resident memory of any one process, as the
    kernel kept it. together_bytes: most of all processes at one moment, pages that several share counted once.
    processes: how many there were.
    """

    seconds: float
    output: str
    largest_bytes: int
    together_bytes: int
    processes: int


def watch(command: Sequence[str], environment: dict[str, str] | None = None) -> Watched:
    """Run a command to its end.

    Its processes are the started one, its children, and theirs.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    highest: dict[int, int] = {}
    sums: list[int] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(EVERY_SECONDS):
            now = 0
            for pid in _family(process.pid):
                highest[pid] = max(highest.get(pid, 0), _entry(pid, "status", "VmHWM"))
                now += _entry(pid, "smaps_rollup", "Pss")
            sums.append(now)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
    finally:
        ended.set()
        looking.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Watched(seconds, output, max(highest.values(), default=0), max(sums, default=0), len(highest))


def _family(first: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The command's name, in brackets, may hold spaces; its state and its parent follow.
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue  # It has ended.
            children.setdefault(int(parent), []).append(int(folder.name))
    found = [first]
    for pid in found:
        found += children.get(pid, [])
    return found


def _entry(pid: int, file: str, name: str) -> int:
    try:
        for line in Path("/proc", str(pid), file).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # It has ended.
    return 0
