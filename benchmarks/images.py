"""Submission images side by side: size, start-up, seconds and memory per case, agreement of their labels.

    python benchmarks/images.py TEST_FOLDER --image cpu=nnbox-hippocampus:cpu --image torch=nnbox-hippocampus:torch \\
        --image nnunetv2=peer-hippocampus:1 --base nnbox-base:bookworm --bundle BUNDLE --cases 8 --rounds 3

TEST_FOLDER holds a file ``CASE_0000.nii.gz`` a channel. Each image gets one case, then ``--cases`` of them, in turns;
every run starts with ``--network none``. Seconds per case are the difference of the two divided by the additional
cases, start-up is what is left of the single case: everything that is paid once a start, model loading included. The
first image is the one the others are compared with. Peak memory is the control group's. Prints one JSON object; medians
of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

CONTROL_GROUPS = (
    "/sys/fs/cgroup/memory/docker/{}/memory.max_usage_in_bytes",
    "/sys/fs/cgroup/system.slice/docker-{}.scope/memory.peak",
    "/sys/fs/cgroup/docker/{}/memory.peak",
)
POLL_SECONDS = 0.2


def docker(*arguments: str) -> str:
    """What docker prints."""
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def size_bytes(image: str) -> int:
    """Unpacked size of all layers."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))


def watch_memory(container: str, peak: list[int], ended: threading.Event) -> None:
    """Keep the highest reading of the container's control group in ``peak``."""
    while not ended.is_set():
        for pattern in CONTROL_GROUPS:
            try:
                peak[0] = max(peak[0], int(Path(pattern.format(container)).read_text()))
            except (OSError, ValueError):
                continue
        ended.wait(POLL_SECONDS)


def run_once(image: str, source: Path, output: Path) -> tuple[float, int]:
    """Seconds from ``docker start`` to the container's end, and the peak of its memory in bytes."""
    output.mkdir()
    output.chmod(0o777)
    mounts = ("-v", f"{source}:/input:ro", "-v", f"{output}:/output")
    container = docker("create", "--network", "none", *mounts, image)
    peak, ended = [0], threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(container, peak, ended))
    watcher.start()
    try:
        started = time.perf_counter()
        docker("start", container)
        code = int(docker("wait", container))
        seconds = time.perf_counter() - started
        if code:
            logs = subprocess.run(["docker", "logs", "--tail", "20", container], capture_output=True, text=True)
            raise SystemExit(f"{image} ended with {code}:\n{logs.stdout}{logs.stderr}")
        return seconds, peak[0]
    finally:
        ended.set()
        watcher.join()
        docker("rm", "--force", container)


def shared_cases(folder: Path, count: int) -> list[str]:
    """Names of the first ``count`` cases of a folder."""
    names = sorted({path.name[: -len("_0000.nii.gz")] for path in folder.glob("*_0000.nii.gz")})
    if len(names) < count:
        raise SystemExit(f"{folder}: {len(names)} cases CASE_0000.nii.gz, {count} are needed")
    return names[:count]


def copy_cases(source: Path, names: Sequence[str], destination: Path) -> None:
    """The files of these cases, in a folder of their own that every user may read."""
    destination.mkdir()
    for name in names:
        for file in source.glob(f"{name}_[0-9][0-9][0-9][0-9].nii.gz"):
            shutil.copy(file, destination)
            (destination / file.name).chmod(0o644)


def agreement(one: Path, other: Path, names: Sequence[str]) -> float:
    """Smallest share of equal voxels over the cases."""
    shares = []
    for name in names:
        pair = [np.asanyarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) for folder in (one, other)]
        shares.append(float(np.mean(pair[0] == pair[1])))
    return min(shares)


def main() -> None:
    """All images in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image", action="append", required=True, metavar="NAME=TAG")
    parser.add_argument("--base", required=True, help="The base image ours are built on; its size is taken off.")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundle", type=Path, required=True, help="The bundle in ours; its size is taken off too.")
    given = parser.parse_args()
    images = dict(entry.split("=", 1) for entry in given.image)
    names = shared_cases(given.folder, given.cases)
    runs: dict[str, dict[str, list[float]]] = {name: {"one": [], "all": [], "memory": []} for name in images}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        work.chmod(0o755)
        copy_cases(given.folder, names[:1], work / "one")
        copy_cases(given.folder, names, work / "all")
        for turn in range(given.rounds):
            for name, tag in images.items():
                for part in ("one", "all"):
                    seconds, memory = run_once(tag, work / part, work / f"{name}-{turn}-{part}")
                    runs[name][part].append(seconds)
                    if part == "all":
                        runs[name]["memory"].append(memory)
        first = next(iter(images))
        last = given.rounds - 1
        base, weights = size_bytes(given.base), sum(file.stat().st_size for file in given.bundle.rglob("*.*"))
        rows = {}
        for name, tag in images.items():
            one, whole = (statistics.median(runs[name][part]) for part in ("one", "all"))
            per_case = (whole - one) / (given.cases - 1)
            rows[name] = {
                "image": tag,
                "megabytes": round(size_bytes(tag) / 1e6),
                "megabytes_beyond_base_and_weights": round((size_bytes(tag) - base - weights) / 1e6),
                "start_seconds": round(one - per_case, 2),
                "seconds_per_case": round(per_case, 2),
                "one_case_seconds": round(one, 2),
                "peak_megabytes": round(statistics.median(runs[name]["memory"]) / 1e6),
                "least_agreement_with_first": round(
                    agreement(work / f"{first}-{last}-all", work / f"{name}-{last}-all", names), 6
                ),
            }
        for row in rows.values():
            row["slower_per_case_than_first"] = round(row["seconds_per_case"] / rows[first]["seconds_per_case"], 2)
        print(
            json.dumps(
                {"cases": given.cases, "rounds": given.rounds, "cores": os.cpu_count(), "images": rows}, indent=1
            )
        )


if __name__ == "__main__":
    main()
