"""The mean of what is known."""

from __future__ import annotations

from collections.abc import Iterable


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that are not None; None where there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
