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
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from row import Row

HERE = Path(__file__).parent
THEMES = ("resampling", "augmentation")
"""Folders beside this file: ``rows.py`` says what is compared, ``ours.py`` and ``peer.py`` do it."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def all_rows() -> dict[str, tuple[str, Row]]:
    """Theme and row of every row's name."""
    found = {}
    for theme in THEMES:
        found.update({name: (theme, row) for name, row in import_module(f"{theme}.rows").ROWS.items()})
    return found


ROWS = all_rows()


def run(python: str, module: str, row: str, result: Path, turns: int, threads: int | None) -> dict[str, Any]:
    """One side of a row."""
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    if threads is not None:
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    command = [python, "-m", module, row, str(result), str(turns)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(name: str, theme: str, row: Row, peer_python: str, turns: int, folder: Path) -> dict[str, Any]:
    """Both sides of a row."""
    sides = {}
    for side, python in (("peer", peer_python), ("ours", sys.executable)):
        print(f"{name}: {side}", file=sys.stderr, flush=True)
        sides[side] = run(python, f"{theme}.{side}", name, folder / f"{side}.npy", turns, row.threads)
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
            results.append(compare(name, *ROWS[name], given.peer_python, given.turns, Path(folder)))
        print(json.dumps(results[-1]), flush=True)
    if given.output is not None:
        machine = {"cores": os.cpu_count(), "python": platform.python_version()}
        given.output.write_text(
            json.dumps({"machine": machine, "turns": given.turns, "rows": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
