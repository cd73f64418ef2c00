"""Which challenges are installed, by name alone: a shell that completes one cannot wait for what an adapter needs."""

from __future__ import annotations

from importlib.metadata import entry_points

ENTRY_POINT_GROUP = "nnunet_box.challenges"


def challenge_names() -> list[str]:
    """Names of all installed adapters, ours and third parties'."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)})
