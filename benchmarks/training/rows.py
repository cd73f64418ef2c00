"""Rows of training."""

from __future__ import annotations

from row import Row

ROWS = {
    "training-batches": Row(
        "training batches of the hippocampus' 3d_fullres, beside its bare forward and backward pass",
        0.95,
        against="bound",
    ),
    "budget-batches": Row("the same of `nnbox train --budget`, batches of 2", 0.95, against="bound"),
}
