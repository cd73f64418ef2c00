"""What a row of the comparison is, and what is said about two results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One piece of work that both sides do.

    title: for the table. target: ratio (peer's seconds / ours) to reach. agreement: what is said of the two results;
    None where they cannot be compared. threads: of both sides, all cores where it is None. most_bytes: memory above the
    inputs that ours may take. long: only in ``make benchmark-long``.
    """

    title: str
    target: float
    agreement: Callable[[np.ndarray, np.ndarray], str] | None
    threads: int | None = None
    most_bytes: int | None = None
    long: bool = False


def equal_share(ours: np.ndarray, peer: np.ndarray) -> str:
    """Share of equal voxels."""
    return f"{100 * np.mean(ours == peer):.4f} % of voxels equal"


def largest_difference(ours: np.ndarray, peer: np.ndarray) -> str:
    """Largest difference in units of the peer's standard deviation."""
    return f"differs by at most {np.abs(ours - peer).max() / peer.std():.1e} of the deviation"
