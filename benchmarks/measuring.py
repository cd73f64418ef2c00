"""What both sides of a comparison share: their inputs, and how seconds and memory of one piece of work are taken.

Imports numpy only, since the peer runs it in an environment of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
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


def measured(work: Callable[[], Any], turns: int) -> tuple[dict[str, Any], Any]:
    """Seconds of each turn, the highest memory above what was used before, in bytes, and the last result.

    One turn that is not counted comes first: libraries load, kernels are compiled.
    """
    work()
    seconds, additional, result = [], 0, None
    for _ in range(turns):
        del result
        forget_peak()
        before = memory_bytes("VmRSS")
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
        additional = max(additional, memory_bytes("VmHWM") - before)
    return {"seconds": seconds, "additional_bytes": additional, "peak_bytes": memory_bytes("VmHWM")}, result


def run_row(rows: dict[str, Callable[[], Callable[[], Any]]]) -> None:
    """What ``compare.py`` starts: ``SCRIPT ROW RESULT.npy TURNS``. The result goes to the file, the figures to the last
    line on stdout.
    """
    row, result_file, turns = sys.argv[1:4]
    figures, result = measured(rows[row](), int(turns))
    if result is not None:
        np.save(result_file, result)
    sys.stdout.flush()
    print(json.dumps(figures), flush=True)
