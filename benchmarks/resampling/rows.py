"""Rows of resampling and export."""

from __future__ import annotations

from row import Row, at_least_equal, differs_at_most

ROWS = {
    "resample-image": Row("resample a CT 160x512x512 to 240x538x538, cubic", 6, differs_at_most(1e-3)),
    "resample-labels": Row("the same for 14 labels", 8, at_least_equal(0.999)),
    "export": Row(
        "export 14 classes from 240x400x400 to 160x512x512", 15, at_least_equal(0.9999), most_bytes=500_000_000
    ),
}
