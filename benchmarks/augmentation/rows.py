"""Rows of augmentation."""

from __future__ import annotations

import numpy as np
from row import Row, equal_share, largest_difference


def warped(ours: np.ndarray, peer: np.ndarray) -> str:
    """Image, then labels."""
    return f"{largest_difference(ours[0], peer[0])}; labels: {equal_share(ours[1], peer[1])}"


ROWS = {
    "warp": Row("elastic, rotation, scaling of a 128x128x128 sample, cubic", 8, warped, threads=1),
    "pipeline": Row("augmentation of a sample with its probabilities, 128x128x128", 3, None, threads=1, turns=7),
}
