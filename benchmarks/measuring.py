"""What both sides of a comparison share: their inputs, and how seconds and memory of one piece of work are taken.

Imports numpy only, since the peer runs it in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CT_SHAPE, CT_SPACING = (160, 512, 512), (3.0, 0.8, 0.8)
CT_TARGET, CT_TARGET_SPACING = (240, 538, 538), (2.0, 0.76, 0.76)
EXPORT_SHAPE = (240, 400, 400)
ORGANS = 14
PATCH = (128, 128, 128)
READ = (190, 190, 190)
SAMPLES = 20
ANGLES, SCALE, ALPHA, SIGMA = (0.2, -0.15, 0.1), 1.2, 600.0, 11.0
DATA_VARIABLE = "NNBOX_BENCHMARK_DATA"
WORK_VARIABLE = "NNBOX_BENCHMARK_WORK"
AGAIN_VARIABLE = "NNBOX_BENCHMARK_AGAIN"
PYTHON_VARIABLE = "NNBOX_BENCHMARK_PYTHON"
"""What ``compare.py`` tells both sides: its ``--data``, ``--work``, ``--again``, and the Python of our environment."""
READY = "ready"
"""What a side says when it waits for its turn."""


def smooth(shape: tuple[int, ...], coarse: int, seed: int) -> np.ndarray:
    """Noise (float32) whose structures are about ``coarse`` voxels wide: linear interpolation of a small grid."""
    random = np.random.default_rng(seed)
    result = random.normal(size=[max(2, length // coarse + 1) for length in shape]).astype(np.float32)
    for axis, length in enumerate(shape):
        positions = np.linspace(0, result.shape[axis] - 1, length)
        first = np.minimum(positions.astype(int), result.shape[axis] - 2)
        share = (positions - first).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        result = np.take(result, first, axis) * (1 - share) + np.take(result, first + 1, axis) * share
    return result


def ct_image() -> np.ndarray:
    """(Z, Y, X) float32: structures of several sizes and noise."""
    noise = np.random.default_rng(1).normal(size=CT_SHAPE).astype(np.float32)
    return 100 * smooth(CT_SHAPE, 40, 2) + 50 * smooth(CT_SHAPE, 10, 3) + 10 * noise


def ct_labels(shape: tuple[int, ...] = CT_SHAPE) -> np.ndarray:
    """(Z, Y, X) uint8 with ``ORGANS`` foreground labels in connected pieces, background between them."""
    field = smooth(shape, 64, 4)
    edges = np.quantile(field[::4, ::8, ::8], np.linspace(0.3, 1, ORGANS + 1))[:-1]
    return np.digitize(field, edges).astype(np.uint8)


def class_scores() -> np.ndarray:
    """Logits (K, Z, Y, X) float32 of ``ORGANS`` classes on the network's grid."""
    return np.stack([4 * smooth(EXPORT_SHAPE, 30, 100 + value) for value in range(ORGANS)])


def patch_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """A sample as it is read for augmentation: image and label map (Z, Y, X) float32."""
    labels = np.digitize(smooth(READ, 30, 5), [-0.5, 0.3, 0.9]).astype(np.float32)
    return smooth(READ, 8, 6) + 0.1 * np.random.default_rng(7).normal(size=READ).astype(np.float32), labels


def memory_bytes(entry: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (highest since ``forget_peak``) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {entry}")


def forget_peak() -> None:
    """Let ``VmHWM`` start again from what is used now."""
    Path("/proc/self/clear_refs").write_text("5")


@dataclass(frozen=True)
class Taken:
    """What a piece of work returns that measures itself: a process's children, a steady state after a start.

    seconds, additional_bytes (above the inputs) and peak_bytes replace what ``measured`` would take where they are not
    None. facts: figures for the table, name to text.
    """

    result: Any = None
    seconds: float | None = None
    additional_bytes: int | None = None
    peak_bytes: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def measured(
    work: Callable[[], Any], turns: int, before_turn: Callable[[], object] = lambda: None, warm_up: bool = True
) -> tuple[dict[str, Any], Any]:
    """Seconds of each turn, the highest memory above what was used before, in bytes, and the last result.

    One turn that is not counted comes first: libraries load, kernels are compiled. ``before_turn`` is called before
    each of the others.
    """
    if warm_up:
        work()
    seconds: list[float] = []
    additional, peak, taken = 0, 0, Taken()
    for _ in range(turns):
        taken = Taken()
        before_turn()
        forget_peak()
        before = memory_bytes("VmRSS")
        started = time.perf_counter()
        result = work()
        elapsed = time.perf_counter() - started
        highest = memory_bytes("VmHWM")
        taken = result if isinstance(result, Taken) else Taken(result)
        del result
        seconds.append(elapsed if taken.seconds is None else taken.seconds)
        own = highest - before if taken.additional_bytes is None else taken.additional_bytes
        additional, peak = max(additional, own), max(peak, highest if taken.peak_bytes is None else taken.peak_bytes)
    figures = {"seconds": seconds, "additional_bytes": additional, "peak_bytes": peak, "facts": dict(taken.facts)}
    return figures, taken.result


def run_row(rows: dict[str, Callable[[], Callable[[], Any]]]) -> None:
    """What ``compare.py`` starts: ``SCRIPT ROW RESULT.npy TURNS [cold]``; ``cold`` leaves out the warm-up.

    Says ``ready`` on stdout before each turn and begins it when a line comes in, so that two sides take turns; without
    a stdin it begins at once. The result goes to the file, the figures to the last line on stdout. What libraries
    print goes to stderr.
    """
    row, result_file, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line: str) -> None:
        channel.write(line + "\n")
        channel.flush()

    def my_turn() -> None:
        say(READY)
        sys.stdin.readline()

    figures, result = measured(rows[row](), turns, my_turn, warm_up="cold" not in sys.argv[4:])
    if result is not None:
        np.save(result_file, result)
    say(json.dumps(figures))
