"""What a row of the comparison is, and what is said about two results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """What is said of two results, and whether they are as the row demands (None: it demands nothing).

    Results that do not agree end a run with exit code 1. target: words of a target instead, for a result that is better
    or worse and not right or wrong: one that is missed is named in the table, as a missed speed is.
    """

    text: str
    met: bool | None = None
    target: str | None = None


Compared = Callable[[np.ndarray, np.ndarray], "str | Agreement"]


@dataclass(frozen=True)
class Row:
    """One piece of work, done by us and, unless ``against`` is None, by another side.

    Three kinds are common::

        Row("export 14 classes", 15, at_least_equal(0.9999))                 # the peer's seconds / ours
        Row("batches beside the bare step", 0.95, against="bound")           # our own bound's seconds / ours
        Row("nnbox --help", against=None, most_seconds=0.4)                  # no other side

    title: for the table. target: ratio (the other side's seconds / ours) to reach. agreement: what is said of the two
    results (ours, the other's); None where they cannot be compared. threads: of both sides, all cores where it is None.
    most_bytes: memory that ours may take. long: only in ``make benchmark-long``.

    against: ``peer`` is the theme's ``peer.py`` in the peer's environment, ``bound`` the theme's ``bound.py`` in ours.
    times: the other side's seconds count so many times (its work is that part of ours). most_seconds: ours may take.
    memory: what the table shows and ``most_bytes`` means, above the row's inputs or with them. memory_target: ratio
    (the other side's memory / ours) to reach. turns: instead of those asked for. warm_up: whether a turn that is not
    counted comes first. data: it needs ``--data``. gpu: it needs a GPU. why: why a target is missed and what the
    measured limit is, for the table. limit_seconds: a side that takes longer is stopped.
    """

    title: str
    target: float | None = None
    agreement: Compared | None = None
    threads: int | None = None
    most_bytes: int | None = None
    long: bool = False
    against: Literal["peer", "bound"] | None = "peer"
    times: float = 1.0
    most_seconds: float | None = None
    memory: Literal["additional", "peak"] = "additional"
    memory_target: float | None = None
    turns: int | None = None
    warm_up: bool = True
    data: bool = False
    gpu: bool = False
    why: str = ""
    limit_seconds: float = 1800.0


def equal_share(ours: np.ndarray, peer: np.ndarray) -> str:
    """Share of equal voxels."""
    return f"{100 * np.mean(ours == peer):.4f} % of voxels equal"


def largest_difference(ours: np.ndarray, peer: np.ndarray) -> str:
    """Largest difference in units of the peer's standard deviation."""
    return f"differs by at most {_difference(ours, peer):.1e} of the deviation"


def at_least_equal(share: float) -> Compared:
    """At least this share of the voxels (0.999) must be equal."""
    return lambda ours, peer: Agreement(
        equal_share(ours, peer), ours.shape == peer.shape and bool(np.mean(ours == peer) >= share)
    )


def differs_at_most(deviations: float) -> Compared:
    """No value may differ by more than so many standard deviations of the peer's."""
    return lambda ours, peer: Agreement(largest_difference(ours, peer), bool(_difference(ours, peer) <= deviations))


def _difference(ours: np.ndarray, peer: np.ndarray) -> float:
    return float(np.abs(ours - peer).max() / peer.std())
