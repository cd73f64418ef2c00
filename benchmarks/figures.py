"""From what the sides of a row measured to its figures, and what its targets say of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from row import Agreement, Row

Figures = dict[str, Any]
MOST_OF_A_BOUND = 5.0
"""Of the bound's seconds / ours: noise, and what a bound of a tenth of the work starts with, make it more than 1."""


def figures_of(row: Row, sides: Mapping[str, Mapping[str, Any]]) -> Figures:
    """Medians, ratio and memory of a row; ``sides`` has what ``measuring.measured`` returned for ``ours`` and, where
    there is one, ``other``. Memory in bytes.
    """
    key = f"{row.memory}_bytes"
    seconds = {side: statistics.median(taken["seconds"]) for side, taken in sides.items()}
    figures: Figures = {
        "seconds": seconds["ours"],
        "bytes": sides["ours"][key],
        "turns": {side: [round(value, 4) for value in taken["seconds"]] for side, taken in sides.items()},
        "facts": {name: text for taken in sides.values() for name, text in taken.get("facts", {}).items()},
    }
    if "other" in sides:
        other = seconds["other"] * row.times
        figures |= {"other_seconds": other, "ratio": other / seconds["ours"], "other_bytes": sides["other"][key]}
    return figures


def beyond_its_bound(row: Row, figures: Figures) -> str | None:
    """What is wrong where ours took far less than its own bound: it left work out."""
    if row.against != "bound" or figures["ratio"] <= MOST_OF_A_BOUND:
        return None
    return f"{figures['seconds']:.3g} s where its bound takes {figures['other_seconds']:.3g} s: work was left out"


def agreement_of(row: Row, ours: np.ndarray, other: np.ndarray) -> dict[str, Any] | None:
    """What is said of the two results, as JSON."""
    if row.agreement is None:
        return None
    said = row.agreement(ours, other)
    said = said if isinstance(said, Agreement) else Agreement(said)
    return asdict(said)


def verdicts(row: Row, figures: Figures) -> dict[str, bool]:
    """Which of the row's targets are met, by the target's words in the table."""
    found: dict[str, bool] = {}
    if row.target is not None:
        found[f"{row.target:g} times faster" if row.target > 1 else f"ratio {row.target:.3g}"] = (
            figures["ratio"] >= row.target
        )
    if row.most_seconds is not None:
        found[f"{row.most_seconds:g} s"] = figures["seconds"] <= row.most_seconds
    if row.most_bytes is not None:
        found[memory_text(row.most_bytes, row)] = figures["bytes"] <= row.most_bytes
    if row.memory_target is not None:
        found[f"memory {row.memory_target:.2g} times smaller"] = (
            figures["other_bytes"] >= row.memory_target * figures["bytes"]
        )
    agreement = figures.get("agreement")
    if agreement is not None and agreement["target"] is not None:
        found[agreement["target"]] = bool(agreement["met"])
    return found


def results_differ(figures: Figures) -> bool:
    """Whether the two results agree less than the row demands."""
    agreement = figures.get("agreement")
    return agreement is not None and agreement["target"] is None and agreement["met"] is False


def memory_text(count: float, row: Row) -> str:
    """Bytes as MB or GB; a plus where they are above the inputs."""
    sign = "+" if row.memory == "additional" else ""
    return f"{sign}{count / 1e9:.2f} GB" if count >= 1e9 else f"{sign}{count / 1e6:.0f} MB"
