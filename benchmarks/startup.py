"""How long ``nnbox --help`` takes beside an interpreter that imports numpy: ``python benchmarks/startup.py``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Ten turns of both; medians and their ratio."""
    ours = [sys.executable, "-m", "nnunet_box.cli.app", "--help"]
    peer = [sys.executable, "-c", "import numpy"]
    runs = [(seconds(ours), seconds(peer)) for _ in range(10)]
    mine, theirs = (statistics.median(run[index] for run in runs) for index in (0, 1))
    print(
        json.dumps(
            {
                "what": "nnbox --help",
                "seconds": round(mine, 3),
                "peer_seconds": round(theirs, 3),
                "ratio": round(theirs / mine, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
