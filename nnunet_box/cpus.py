"""How many threads this process may use: what the container was given, not what the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
SHARE_OF_PROCESSES = 0.5
"""Of a limit on processes, and threads count as such, computing takes at most this much: libraries start their own."""

VOXELS_WORTH_A_THREAD = 1_000_000
"""Below this a thread's start, and the waits for Python's lock, cost more than it brings."""


def usable_threads(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> int:
    """Threads worth starting: the cores this process may run on, fewer where a control group's quota on CPU time or
    limit on processes says so (``docker run --cpus``, ``--pids-limit``); at least 1.

    groups: where control groups are mounted, of the first or the second kind. own: which this process is in.
    """
    limits: list[float] = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for folder in _folders(groups, own, ("cpu", "cpu,cpuacct")):
        limits += _quota(folder)
    for folder in _folders(groups, own, ("pids",)):
        limits += [SHARE_OF_PROCESSES * number for number in _numbers(folder / "pids.max")]
    return max(1, math.ceil(min(limits)))


def in_threads(work: Callable[[slice], None], planes: int, plane_voxels: int, least: int = 1) -> None:
    """Have ``planes`` done by ``work``, which takes a range of them, in as many threads as are usable and worth it.

    least: planes of a range, where each range brings memory or work of its own. One thread where the environment says
    ``OMP_NUM_THREADS=1``, as it does in the workers of ``map_cases``. For work that leaves Python's lock, as numpy's
    functions do on large arrays. Raises what ``work`` raises.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    usable = min(usable_threads(), int(wanted)) if wanted.isdecimal() and int(wanted) else usable_threads()
    parts = max(1, min(usable, planes // least, planes * plane_voxels // VOXELS_WORTH_A_THREAD))
    ranges = [slice(planes * part // parts, planes * (part + 1) // parts) for part in range(parts)]
    if parts == 1:
        work(ranges[0])
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(parts) as pool:
        for done in [pool.submit(work, some) for some in ranges]:
            done.result()


def _folders(groups: Path, own: Path, controllers: tuple[str, ...]) -> Iterator[Path]:
    """Folders that may hold a limit: in a container the own group is mounted as if it were the root, so both are."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for mounted in ("", *controllers):
        root = groups / mounted
        yield root
        for line in lines:
            _, names, path = line.split(":", 2)
            if names in controllers or not names:
                yield root / path.lstrip("/")


def _quota(folder: Path) -> list[float]:
    """Cores' worth of CPU time: ``cpu.max`` of the second kind of group, ``cpu.cfs_quota_us`` of the first."""
    both = _numbers(folder / "cpu.max")
    if len(both) == 2:
        return [both[0] / both[1]]
    quota, period = _numbers(folder / "cpu.cfs_quota_us"), _numbers(folder / "cpu.cfs_period_us")
    return [quota[0] / period[0]] if quota and period and quota[0] > 0 else []


def _numbers(file: Path) -> list[float]:
    """The numbers a control file holds; none where it says ``max`` or is not there."""
    try:
        return [float(word) for word in file.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
