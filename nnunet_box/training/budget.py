"""Fitting a run into a given time: a named departure for people without a GPU (see docs/fidelity.md)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from nnunet_box.errors import UsageError

SMALLEST_BATCH = 2
WANTED_UPDATES = 2500
"""Updates below which a smaller batch serves better than a cleaner gradient."""
FEW_UPDATES = 150
"""Fewer than this and the person is told how to get more."""
EPOCHS_A_BUDGET = 50
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str, option: str = "--budget") -> float:
    """``90s``, ``25m``, ``1h30m`` to seconds. option: what it was given to, for the message.

    Raises
    ------
    UsageError: it does not read as a positive duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip() or seconds <= 0:
        raise UsageError(f"{option} {text}: write a duration as 90s, 25m, 8h or 1h30m.")
    return seconds


def seconds_a_sample(step: Callable[[int], None], batch_size: int) -> float:
    """Time one update of ``batch_size`` samples takes, a sample; the first, slower one is not counted."""
    step(batch_size)
    started = time.perf_counter()
    step(batch_size)
    return (time.perf_counter() - started) / batch_size


def batch_size_for(seconds: float, sample_seconds: float, planned: int) -> int:
    """Largest batch up to the plan's that leaves ``WANTED_UPDATES`` in ``seconds``; never under 2 (paper, Method)."""
    affordable = int(seconds / sample_seconds / WANTED_UPDATES)
    return max(SMALLEST_BATCH, min(planned, affordable))


def batches_an_epoch(seconds: float, batch_seconds: float, planned: int) -> int:
    """Batches of one reported epoch: about a fiftieth of the budget, at most the plan's 250."""
    return max(1, min(planned, round(seconds / EPOCHS_A_BUDGET / batch_seconds)))
