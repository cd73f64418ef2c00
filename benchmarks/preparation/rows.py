"""Rows of planning, preprocessing and the start of commands."""

from __future__ import annotations

import numpy as np
from row import Agreement, Row, equal_share, largest_difference


def same_voxels(ours: np.ndarray, peer: np.ndarray) -> Agreement:
    """Preprocessed images and labels of all cases in a row, ``3d_fullres``.

    The peer marks the background outside of the nonzero region as -1 whether or not it uses the mark.
    """
    if ours.shape != peer.shape:
        return Agreement(f"{ours.shape[1]} and {peer.shape[1]} voxels in all", False)
    labels = np.maximum(ours[1], 0), np.maximum(peer[1], 0)
    text = f"images: {largest_difference(ours[0], peer[0])}; labels: {equal_share(*labels)}"
    return Agreement(text, bool(np.allclose(ours[0], peer[0], atol=1e-3) and np.array_equal(*labels)))


ROWS = {
    "prepare": Row(
        "plan and preprocess 208 hippocampus cases, 2d and 3d_fullres, 2 workers, from start to end",
        5,
        same_voxels,
        memory="peak",
        memory_target=3,
        warm_up=False,
        data=True,
    ),
    "fingerprint": Row(
        "fingerprint and plan of 400 cases beside 40, 2 workers",
        1 / 1.05,
        None,
        against="bound",
        times=10,
        memory="peak",
        memory_target=0.95,
        warm_up=False,
    ),
    "help": Row("nnbox --help, from start to end", against=None, memory="peak", most_seconds=0.4),
    "plan": Row("nnbox plan --fingerprint, from start to end", against=None, memory="peak", most_seconds=1.0),
}
