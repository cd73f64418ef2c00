"""What a training run has come to, and the log of its epochs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nnunet_box.files import write_text
from nnunet_box.training.schedule import Count, Seconds

LOG = "log.jsonl"
"""A line of JSON an epoch, in the fold's folder."""

MOST_SAMPLES = 1 << 16
"""In a batch; a checkpoint that asks for more is not one of ours."""


@dataclass
class Progress:
    """What a run has come to. batch_size and batches_per_epoch are the plan's unless a budget changed them. losses,
    epoch_seconds: of the epoch that has begun.
    """

    batch_size: Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
    batches_per_epoch: Annotated[int, Field(ge=1)]
    epoch: Count = 0
    seconds: Seconds = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    epoch_seconds: Seconds = 0.0


def write_log(file: Path, history: list[dict[str, Any]]) -> None:
    """One line an epoch, as the run knows them: those of a killed run after its checkpoint are done again."""
    write_text(file, "".join(json.dumps(line) + "\n" for line in history))
