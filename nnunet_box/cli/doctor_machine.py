"""What ``nnbox doctor`` finds of the machine: memory, limits, the workspace's disk and file system."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import tempfile
from pathlib import Path

from nnunet_box.cli.doctor_finding import Finding
from nnunet_box.disk import existing
from nnunet_box.memory import GIB, free_memory_gib

LEAST_FREE_GIB = 5.0
"""Below this a preprocessed dataset with its models, or an image, is likely not to fit."""
LEAST_MEMORY_GIB = 4.0
LEAST_SHARED_GIB = 1.0
"""A batch of the paper's patches is some tens of megabytes, and each process that makes batches keeps a few."""
LEAST_OPEN_FILES = 1024
MOUNTS = Path("/proc/self/mountinfo")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written
IN_MEMORY = ("tmpfs", "ramfs")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "gpfs", "ceph", "beegfs", "fuse.sshfs", "afs")
LOCAL_LOCKS = re.compile(r"(^|,)(nolock|local_lock=(all|posix)|localflock)(,|$)")
"""Mount options by which a network's locks hold on one machine alone."""
BATCHES = "train, train-all with --workers"


def room(what: str, place: Path, advice: str) -> Finding:
    """Free space on the disk of ``place``, or of the nearest folder above it that is there and may be looked at."""
    while not os.path.exists(place):  # noqa: PTH110 - no error where the folder may not be looked into
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    enough = free >= LEAST_FREE_GIB
    return Finding(what, "ok" if enough else "warning", f"{free:.0f} GiB free at {place}", "" if enough else advice)


def examine_memory() -> list[Finding]:
    """Memory of this process, and what processes may share."""
    findings = []
    memory = free_memory_gib()
    if memory is not None:
        enough = memory >= LEAST_MEMORY_GIB
        advice = "" if enough else "Close other programs, or plan with a smaller --memory-gb."
        findings.append(Finding("memory", "ok" if enough else "warning", f"{memory:.1f} GiB available", advice))
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).free / GIB
        enough = shared >= LEAST_SHARED_GIB
        advice = "" if enough else "In a container: --shm-size 2g, or --ipc host. Elsewhere: nnbox train --workers 0."
        found = f"{shared:.1f} GiB free at {SHARED_MEMORY}"
        findings.append(Finding("shared memory", "ok" if enough else "warning", found, advice, BATCHES))
    return findings


def examine_limits() -> list[Finding]:
    """What the shell lets a process have (``ulimit``): open files, size of a file, address space."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = files != resource.RLIM_INFINITY and files < LEAST_OPEN_FILES
    advice = f"ulimit -n {LEAST_OPEN_FILES * 4}" if few else ""
    findings = [Finding("open files", "warning" if few else "ok", _amount(files), advice, BATCHES)]
    for what, kind, word in (
        ("file size", resource.RLIMIT_FSIZE, "-f"),
        ("address space", resource.RLIMIT_AS, "-v"),
    ):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            found = f"at most {limit / GIB:.1f} GiB"
            findings.append(Finding(what, "warning", found, f"ulimit {word} unlimited"))
    return findings


def _amount(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"at most {limit}"


def examine_workspace(workspace: Path) -> list[Finding]:
    """Disk space where the workspace is or would be, whether it can be written, and what its file system does."""
    place = existing(workspace)
    findings = [room("disk", place, "Free space or choose another --workspace.")]
    if not os.access(place, os.W_OK):
        advice = "Choose another --workspace, or ask its owner for the right to write."
        return [*findings, Finding("workspace", "missing", f"{place} is not writable", advice)]
    return [*findings, _file_system(place)]


def _file_system(place: Path) -> Finding:
    kind, options = mounted(place)
    named = f"{kind}, of a network" if kind in NETWORK else kind
    problem = lock_problem(place)
    what, other = (
        "file system",
        "Choose a --workspace on a local disk, NFS version 4, GPFS, CephFS or Lustre with flock.",
    )
    if problem is not None:
        found = f"{named} at {place}: no locks ({problem}), so two commands would not notice each other"
        return Finding(what, "warning", found, other)
    if kind in NETWORK and LOCAL_LOCKS.search(options):
        found = f"{named} at {place}: mounted so that locks hold on this machine alone"
        return Finding(what, "warning", found, "Mount it without nolock, local_lock or localflock.", "several machines")
    if kind in IN_MEMORY:
        found = f"{named} at {place}: it is memory, and gone with a restart"
        return Finding(what, "warning", found, other)
    return Finding(what, "ok", f"{named} at {place}, locks work")


def mounted(place: Path, mounts: Path = MOUNTS) -> tuple[str, str]:
    """Type and options of the file system of ``place``, as the kernel lists them; ``unknown`` where it does not."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return "unknown", ""
    best, found = -1, ("unknown", "")
    for line in lines:
        before, _, after = line.partition(" - ")
        words, (kind, _, options) = before.split(), (after.split() + ["", "", ""])[:3]
        if len(words) < 6:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), words[4]))
        # Of two mounts at one place the later one is seen.
        if place.resolve().is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), (kind, f"{words[5]},{options}")
    return found


def lock_problem(folder: Path) -> str | None:
    """Why a file in ``folder`` cannot be locked; None where it can. The file is gone afterwards."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def examine_kernels() -> list[Finding]:
    """Whether the compiled functions of the augmentation can be kept from one training to the next."""
    import nnunet_box.training

    beside = Path(next(iter(nnunet_box.training.__path__)))
    given = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(given)] if given else [beside, Path.home() / ".cache" / "numba"]
    kept = next((place for place in places if os.access(existing(place), os.W_OK)), None)
    if kept is not None:
        return [Finding("kernel cache", "ok", f"at {kept}")]
    found = f"{' and '.join(map(str, places))} cannot be written, so every process compiles again"
    return [Finding("kernel cache", "warning", found, "Set NUMBA_CACHE_DIR to a folder that can be written.", BATCHES)]
