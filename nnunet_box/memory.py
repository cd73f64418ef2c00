"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

GIB = 1024.0**3


def free_memory_gib() -> float | None:
    """Memory to be had without swapping, in GiB, within the control group's limit; None where nothing tells."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    kilobytes = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable:")), None)
    if kilobytes is None:
        return None
    available = kilobytes * 1024.0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        if limit != "max":
            available = min(available, int(limit) - used)
    except (OSError, ValueError):
        pass  # no second control-group hierarchy: the machine's own figure stands
    return available / GIB
