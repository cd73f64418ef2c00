"""Our side of preparation; see ``compare.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from preparation.bound import FEW, scaling
from preparation.raw import hippocampus, scratch
from preparation.watch import watch

Work = Callable[[], Any]
NNBOX = [sys.executable, "-m", "nnunet_box.cli.app"]


def prepare() -> Work:
    folder = scratch("ours")
    dataset = hippocampus(folder / "raw")
    turns = iter(range(1000))

    def work() -> measuring.Taken:
        workspace = folder / f"workspace-{next(turns)}"
        command = [*NNBOX, "preprocess", str(dataset), "--workspace", str(workspace), "--processes", "2"]
        watched = watch(command)
        *_, store = watched.output.split()
        return measuring.Taken(
            _stored(Path(store)),
            watched.seconds,
            peak_bytes=watched.largest_bytes,
            facts={"all our processes together": f"{watched.together_bytes / 1e6:.0f} MB"},
        )

    return work


def _stored(store: Path) -> np.ndarray:
    from nnunet_box.preprocessing.store import open_case

    cases = [open_case(store, folder.name) for folder in sorted(store.iterdir()) if folder.is_dir()]
    return np.stack(
        [
            np.concatenate([case.image[:].ravel() for case in cases]),
            np.concatenate([case.labels[:].ravel().astype(np.float32) for case in cases]),
        ]
    )


def fingerprint() -> Work:
    return scaling(10 * FEW)


def show_help() -> Work:
    return lambda: _start([*NNBOX, "--help"])


def plan() -> Work:
    file = scratch("ours") / "fingerprint.json"
    case = {"spacings": [[3.0, 0.76, 0.76]], "sizes": [[128, 512, 512]], "cases": 30, "modalities": ["CT"]}
    file.write_text(json.dumps(case | {"foreground_classes": 13, "size_after_crop_ratio": 1.0}))
    return lambda: _start([*NNBOX, "plan", "--fingerprint", str(file)])


def _start(command: list[str]) -> measuring.Taken:
    watched = watch(command)
    return measuring.Taken(seconds=watched.seconds, peak_bytes=watched.largest_bytes)


ROWS: dict[str, Callable[[], Work]] = {
    "prepare": prepare,
    "fingerprint": fingerprint,
    "help": show_help,
    "plan": plan,
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
