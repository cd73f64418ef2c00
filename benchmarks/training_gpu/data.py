"""What both sides train on: CT-like volumes of three classes at the size of a real one's crop; and two cores to do so.

Imports numpy only, since the peer runs it in an environment of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import measuring
import numpy as np

SHAPE = (200, 280, 280)
CASES = 3
CLASSES = 4
PATCH = (128, 128, 128)
BATCH = 2
STAGES = 6


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image (1, Z, Y, X) float32 in whole grey values once normalised, labels (Z, Y, X) int8."""
    for number in range(CASES):
        noise = np.random.default_rng(number).normal(size=SHAPE)
        image = measuring.smooth(SHAPE, 40, 10 + number) + 0.5 * measuring.smooth(SHAPE, 10, 20 + number) + 0.1 * noise
        labels = np.digitize(measuring.smooth(SHAPE, 64, 30 + number), [0.5, 0.8, 1.1]).astype(np.int8)
        yield f"case_{number}", (np.round(image * 250) / 250).astype(np.float32)[None], labels


def confine(cores: int) -> None:
    """All threads of this process, and of the processes it has started, onto the first ``cores`` cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    for process in [os.getpid(), *children(os.getpid())]:
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), allowed)


def children(process: int) -> list[int]:
    """All processes below ``process``."""
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        for child in (thread / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found
