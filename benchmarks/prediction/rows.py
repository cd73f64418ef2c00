"""Rows of prediction."""

from __future__ import annotations

import numpy as np
from prediction.models import in_body
from row import Agreement, Row, at_least_equal, equal_share

MOST_OVERHEAD = 1.1
SHARE = 0.999
EQUAL = at_least_equal(SHARE)
"""Random weights put classes next to each other everywhere, so rounding decides between some of them; both sides sum in
float16. Of trained models more agree: docs/nnunet-parity.md.
"""


def equal_in_body(ours: np.ndarray, peer: np.ndarray) -> Agreement:
    """Of a drawn CT's body the share that the other rows demand. Air is clipped to one value: there the norms divide
    float32's rounding by next to nothing, and the logits are float32's noise in every implementation (rounding.py).
    """
    if ours.shape != peer.shape:
        return Agreement(equal_share(ours, peer), False)
    body = in_body(ours.shape)
    equal = ours == peer
    return Agreement(
        f"{100 * equal[body].mean():.4f} % of the body's voxels equal, {100 * equal[~body].mean():.4f} % of the air's",
        bool(equal[body].mean() >= SHARE),
    )


ROWS = {
    "predict-hippocampus": Row("predict a hippocampus case, mirroring, the same imported weights", 1.3, EQUAL),
    "predict-hippocampus-torch": Row("the same with our torch runtime instead of OpenVINO", 1.0, EQUAL),
    "predict-hippocampus-bare": Row(
        "the hippocampus case from disk to disk beside its bare network calls", 1 / MOST_OVERHEAD, against="bound"
    ),
    "predict-cardiac": Row(
        "predict a cardiac case 10x256x216 (patch 20x256x224, mirroring), the same imported weights",
        1.3,
        EQUAL,
        turns=1,
    ),
    "predict-cardiac-bare": Row(
        "the cardiac case from disk to disk beside its bare network calls", 1 / MOST_OVERHEAD, against="bound", turns=2
    ),
    "predict-ct": Row(
        "nnbox predict of a CT 300x512x512, 14 classes, disk to disk, beside its 64 bare network calls "
        "(patch 96x128x128 on 200x320x320, no mirroring)",
        1 / MOST_OVERHEAD,
        against="bound",
        most_bytes=2_500_000_000,
        memory="peak",
        turns=1,
        warm_up=False,
        long=True,
        why="one turn, 12 % beyond the network; of the same command in the next row of the same run, 404 s, 7 %: the "
        "spread of one turn is as large as the goal. What is left is 40 s of one thread beside calls that fill both "
        "cores, so 20 s at least: sums of 64 windows in float16, whose conversion numpy does value by value (20 s; "
        "float32 would take 275 MB more), export, reading, resampling, writing",
        limit_seconds=3600.0,
    ),
    "predict-ct-peer": Row(
        "the same CT beside nnunetv2",
        1.3,
        equal_in_body,
        most_bytes=2_500_000_000,
        memory="peak",
        turns=1,
        warm_up=False,
        long=True,
        limit_seconds=7200.0,
    ),
}
