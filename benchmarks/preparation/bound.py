"""What preparation of more cases is held against: the same of a tenth of them; see ``compare.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from preparation.raw import raw_folder, scratch
from preparation.watch import watch

Work = Callable[[], Any]
FEW = 40
SHAPE = (48, 64, 64)


def scaling(cases: int) -> Work:
    """Fingerprint and plan of so many drawn cases, no two alike, in a process that has done another data set before:
    only what grows is timed.
    """
    folder = scratch(f"{cases} cases")
    draw_cases(folder / "warm", 4)
    draw_cases(folder / "timed", cases)
    turns = iter(range(1000))

    def work() -> measuring.Taken:
        watched = watch([sys.executable, "-m", "preparation.bound", str(folder), f"workspace-{next(turns)}"])
        return measuring.Taken(seconds=json.loads(watched.output), peak_bytes=watched.largest_bytes)

    return work


def draw_cases(target: Path, cases: int) -> None:
    """CT-like volumes with a ball of foreground."""
    from nnunet_box.dataset.geometry import Geometry
    from nnunet_box.dataset.volumes import save_nifti

    raw_folder(target, {"0": "CT"}, {"background": 0, "ball": 1}, cases)
    z, y, x = np.indices(SHAPE)
    grid = Geometry(SHAPE, (2.0, 1.0, 1.0))
    for number in range(cases):
        random = np.random.default_rng(number)
        image = random.normal(-500, 300, SHAPE).astype(np.int16)
        inside = (z - 24) ** 2 + (y - random.integers(20, 44)) ** 2 + (x - 32) ** 2 < 250
        save_nifti(target / "imagesTr" / f"case{number:03d}_0000.nii.gz", image + np.int16(600) * inside, grid)
        save_nifti(target / "labelsTr" / f"case{number:03d}.nii.gz", inside.astype(np.uint8), grid)


def fingerprint() -> Work:
    return scaling(FEW)


def _timed(folder: Path, workspace: str) -> None:
    from nnunet_box.dataset.dataset import load_dataset
    from nnunet_box.execution.prepare import plan_dataset
    from nnunet_box.workspace import Workspace

    def once(name: str) -> measuring.Taken:
        dataset = load_dataset(folder / name)
        plan_dataset(Workspace(folder / workspace, name), dataset, processes=2)
        return measuring.Taken()

    once("warm")
    figures, _ = measuring.measured(lambda: once("timed"), 1, warm_up=False)
    print(json.dumps(figures["seconds"][0]))


ROWS: dict[str, Callable[[], Work]] = {"fingerprint": fingerprint}


if __name__ == "__main__":
    if sys.argv[1] in ROWS:
        measuring.run_row(ROWS)
    else:
        _timed(Path(sys.argv[1]), sys.argv[2])
