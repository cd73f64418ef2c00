"""Rows of prediction."""

from __future__ import annotations

from row import Row, at_least_equal

MOST_OVERHEAD = 1.1
EQUAL = at_least_equal(0.999)
"""Random weights put classes next to each other everywhere, so rounding decides between some of them; both sides sum in
float16. Of trained models more agree: docs/nnunet-parity.md.
"""

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
        limit_seconds=3600.0,
    ),
    "predict-ct-peer": Row(
        "the same CT beside nnunetv2",
        1.3,
        EQUAL,
        most_bytes=2_500_000_000,
        memory="peak",
        turns=1,
        warm_up=False,
        long=True,
        limit_seconds=7200.0,
    ),
}
