"""Ours beside nnunetv2, row by row, each side a process of its own, in turns.

    python benchmarks/compare.py --peer-python peer/bin/python [--rows export warp] [--turns 3] [--output figures.json]

A row's figures: median seconds of both, their ratio (peer / ours), memory above the row's inputs, and how far the
results agree. ``make test-peer`` makes an environment with the peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def equal_share(ours: np.ndarray, peer: np.ndarray) -> str:
    """Share of equal voxels."""
    return f"{100 * np.mean(ours == peer):.4f} % of voxels equal"


def largest_difference(ours: np.ndarray, peer: np.ndarray) -> str:
    """Largest difference in units of the peer's standard deviation."""
    return f"differs by at most {np.abs(ours - peer).max() / peer.std():.1e} of the deviation"


def warped(ours: np.ndarray, peer: np.ndarray) -> str:
    """Image, then labels."""
    return f"{largest_difference(ours[0], peer[0])}; labels: {equal_share(ours[1], peer[1])}"


@dataclass(frozen=True)
class Row:
    """One piece of work. target: ratio to reach. most_bytes: memory above the inputs that ours may take. threads: of
    both sides, all cores where it is None. agreement: what is said of the two results.
    """

    title: str
    target: float
    agreement: Callable[[np.ndarray, np.ndarray], str] | None
    threads: int | None = None
    most_bytes: int | None = None


ROWS = {
    "resample-image": Row("resample a CT 160x512x512 to 240x538x538, cubic", 6, largest_difference),
    "resample-labels": Row("the same for 14 labels", 8, equal_share),
    "export": Row("export 14 classes from 240x400x400 to 160x512x512", 15, equal_share, most_bytes=500_000_000),
    "warp": Row("elastic, rotation, scaling of a 128x128x128 sample, cubic", 8, warped, threads=1),
    "pipeline": Row("augmentation of a sample with its probabilities, 128x128x128", 3, None, threads=1),
}


def run(python: str, script: str, row: str, result: Path, turns: int, threads: int | None) -> dict[str, Any]:
    """One side of a row."""
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    command = [python, str(HERE / script), row, str(result), str(turns)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(name: str, row: Row, peer_python: str, turns: int, folder: Path) -> dict[str, Any]:
    """Both sides of a row."""
    sides = {}
    for side, python, script in (("peer", peer_python, "peer.py"), ("ours", sys.executable, "ours.py")):
        print(f"{name}: {side}", file=sys.stderr, flush=True)
        sides[side] = run(python, script, name, folder / f"{side}.npy", turns, row.threads)
    seconds = {side: statistics.median(figures["seconds"]) for side, figures in sides.items()}
    figures: dict[str, Any] = {
        "row": name,
        "title": row.title,
        "seconds": round(seconds["ours"], 3),
        "peer_seconds": round(seconds["peer"], 3),
        "ratio": round(seconds["peer"] / seconds["ours"], 2),
        "target": row.target,
        "additional_mb": round(sides["ours"]["additional_bytes"] / 1e6),
        "peer_additional_mb": round(sides["peer"]["additional_bytes"] / 1e6),
    }
    if row.agreement is not None:
        figures["agreement"] = row.agreement(np.load(folder / "ours.npy"), np.load(folder / "peer.npy"))
    return figures


def main() -> None:
    """All rows, as JSON lines and a table for docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="Python of an environment with nnunetv2 2.8.1.")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    given = parser.parse_args()
    results = []
    for name in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(name, ROWS[name], given.peer_python, given.turns, Path(folder)))
        print(json.dumps(results[-1]), flush=True)
    if given.output is not None:
        machine = {"cores": os.cpu_count(), "python": platform.python_version()}
        given.output.write_text(
            json.dumps({"machine": machine, "turns": given.turns, "rows": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
