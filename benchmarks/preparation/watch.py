"""A command, and the memory of all processes that it starts."""

from __future__ import annotations

import subprocess
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

    Its processes are those of its session, workers of workers included.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    highest: dict[int, int] = {}
    together = 0
    while True:
        now = 0
        for pid in _session(process.pid):
            highest[pid] = max(highest.get(pid, 0), _entry(pid, "status", "VmHWM"))
            now += _entry(pid, "smaps_rollup", "Pss")
        together = max(together, now)
        try:
            process.wait(EVERY_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue
    seconds = time.perf_counter() - started
    assert process.stdout is not None
    output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Watched(seconds, output, max(highest.values()), together, len(highest))


def _session(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The command's name, in brackets, may hold spaces; state, parent, group and session follow.
                session = (folder / "stat").read_text().rpartition(")")[2].split()[3]
            except OSError:
                continue  # It has ended.
            if int(session) == leader:
                found.append(int(folder.name))
    return found


def _entry(pid: int, file: str, name: str) -> int:
    try:
        for line in Path("/proc", str(pid), file).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # It has ended.
    return 0
