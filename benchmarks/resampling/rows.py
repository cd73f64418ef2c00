"""Rows of resampling and export."""

from __future__ import annotations

from row import Row, equal_share, largest_difference

ROWS = {
    "resample-image": Row("resample a CT 160x512x512 to 240x538x538, cubic", 6, largest_difference),
    "resample-labels": Row("the same for 14 labels", 8, equal_share),
    "export": Row("export 14 classes from 240x400x400 to 160x512x512", 15, equal_share, most_bytes=500_000_000),
}
