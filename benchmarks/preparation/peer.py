"""nnunetv2's side of preparation, in its own environment; see ``compare.py``. Never imported by the product."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from preparation.raw import NAME, hippocampus, scratch
from preparation.watch import watch

Work = Callable[[], Any]
ID = int(NAME[7:10])
# What its command of one line is; it lies beside its Python.
COMMAND = [str(Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"), "-d", str(ID)]
OPTIONS = ["-c", "2d", "3d_fullres", "-npfp", "2", "-np", "2"]


def prepare() -> Work:
    folder = scratch("peer")
    hippocampus(folder / "raw")
    turns = iter(range(1000))

    def work() -> measuring.Taken:
        preprocessed = folder / f"preprocessed-{next(turns)}"
        environment = dict(os.environ) | {
            "nnUNet_raw": str(folder / "raw"),
            "nnUNet_preprocessed": str(preprocessed),
            "nnUNet_results": str(folder / "results"),
        }
        watched = watch([*COMMAND, *OPTIONS], environment)
        return measuring.Taken(
            _stored(preprocessed / NAME / "nnUNetPlans_3d_fullres"),
            watched.seconds,
            peak_bytes=watched.largest_bytes,
            facts={"all nnunetv2's processes together": f"{watched.together_bytes / 1e6:.0f} MB"},
        )

    return work


def _stored(store: Path) -> np.ndarray:
    import blosc2

    found = [
        np.concatenate([blosc2.open(str(file), mode="r")[:].ravel().astype(np.float32) for file in files])
        for files in (
            sorted(file for file in store.glob("*.b2nd") if not file.name.endswith("_seg.b2nd")),
            sorted(store.glob("*_seg.b2nd")),
        )
    ]
    return np.stack(found)


ROWS: dict[str, Callable[[], Work]] = {"prepare": prepare}


if __name__ == "__main__":
    measuring.run_row(ROWS)
