"""What a run's figures were measured on and with."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

OURS = ("nnunet_box", "torch", "numpy", "scipy", "numba", "batchgenerators", "openvino")
PEER = ("nnunetv2", "torch", "numpy", "scipy", "scikit-image", "batchgenerators", "batchgeneratorsv2")
ASK_VERSIONS = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions(python: str, names: tuple[str, ...]) -> dict[str, str]:
    """Versions of an environment's Python and packages; those it lacks are left out."""
    done = subprocess.run([python, "-c", ASK_VERSIONS, *names], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def machine_text(gpu: str | None) -> str:
    """Processor, cores this process may use, memory, kernel and card; not the machine's name."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    parts = [
        model,
        f"{cores} cores",
        f"{memory:.0f} GiB",
        f"{platform.system()} {platform.release().partition('-')[0]}",
    ]
    return ", ".join(parts + ([gpu] if gpu else []))


def gpu_name() -> str | None:
    """The first GPU, as its driver's program names it; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True)
    return said.stdout.splitlines()[0].strip() if said.returncode == 0 and said.stdout.strip() else None


def commit(repository: Path) -> str:
    """The repository's commit, with a plus where files were changed since; ``unknown`` outside of one."""
    done = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"], cwd=repository, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
