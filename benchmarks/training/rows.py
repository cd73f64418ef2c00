"""Rows of training."""

from __future__ import annotations

import numpy as np
from row import Agreement, Row


def dice_beside(ours: np.ndarray, peer: np.ndarray) -> Agreement:
    """Mean foreground Dice and number of cases of both sides.

    Raises ValueError where they are not of as many cases.
    """
    if ours[1] != peer[1]:
        raise ValueError(f"our Dice is of {ours[1]:.0f} cases, nnunetv2's of {peer[1]:.0f}")
    text = f"Dice {ours[0]:.4f}, nnunetv2's {peer[0]:.4f}, over {ours[1]:.0f} cases"
    return Agreement(text, bool(ours[0] >= peer[0]), target="Dice not below the other's")


ROWS = {
    "training-batches": Row(
        "training batches of the hippocampus' 3d_fullres, beside its bare forward and backward pass",
        0.95,
        against="bound",
    ),
    "budget-batches": Row(
        "the same of `nnbox train --budget`, batches of 2",
        0.95,
        against="bound",
        why="the update of the weights, which the bare pass has not, is 4 % of a batch, so 0.96 at most",
    ),
    "accuracy": Row(
        "Dice after 10 minutes of training, nnunetv2's after 30: hippocampus fold 0, 3d_fullres, all cores",
        agreement=dice_beside,
        memory="peak",
        long=True,
        data=True,
        turns=1,
        warm_up=False,
        limit_seconds=4 * 3600,
    ),
}
