"""A tiny BCV download in its real layout, oddities included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tiny_downloads import SHAPE, labels_of, save

ORGANS = tuple(range(1, 14))
SPACING = (0.7, 0.7, 3.0)


def organs(number: int) -> np.ndarray:
    """Thirteen organs; the gallbladder (4) is absent in every tenth case, as in two of the real thirty."""
    return labels_of(SHAPE, [value for value in ORGANS if value != 4 or number % 10], number)


def write_bcv(
    root: Path, training: Sequence[int] = (1, 2, 10, 21, 40), test: Sequence[int] = (61, 80), testing: str = "Testing"
) -> Path:
    """``RawData/Training`` and ``RawData/Testing`` below ``root``."""
    random = np.random.default_rng(0)
    for number in (*training, *test):
        folder = root / "RawData" / ("Training" if number in training else testing)
        voxels = random.integers(-1000, 1000, SHAPE).astype(np.int16)
        save(folder / "img" / f"img{number:04d}.nii.gz", voxels, SPACING)
        (folder / "img" / f"._img{number:04d}.nii.gz").write_bytes(b"\x00\x05\x16\x07")
        if number in training:
            labels = organs(number).astype(np.float64 if number == 2 else np.uint8)
            save(folder / "label" / f"label{number:04d}.nii.gz", labels, SPACING)
    return root / "RawData"
