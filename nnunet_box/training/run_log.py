"""What a training run has come to, and the log of its epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from nnunet_box.files import write_text
from nnunet_box.means import mean_of
from nnunet_box.training.schedule import AVERAGE_WEIGHT, Count, Seconds

LOG = "log.jsonl"
"""A line of JSON an epoch, in the fold's folder: the fields of ``Epoch``."""
RECENT_EPOCHS = 20
"""Whose time says how long the next ones take."""
MOST_SAMPLES = 1 << 16
"""In a batch; a checkpoint that asks for more is not one of ours."""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""None for what is not known; version 0.1 wrote NaN."""


@dataclass(frozen=True)
class Epoch:
    """A line of ``log.jsonl``. Logs of version 0.1 have epoch, loss, validation_dice, rate and seconds alone; None
    stands for what is not known, ``null`` in the file.

    epoch: 1 for the first. loss: mean training loss of its updates. loss_average: its moving average, an older one
    weighing ``AVERAGE_WEIGHT`` (0.93); what the paper's schedule looks at. validation_dice: mean of ``dice``, over the
    classes that are there. dice: label value to the foreground Dice of voxels pooled over the epoch's validation
    patches, an estimate; None where a class is neither in them nor predicted, empty where a budget ended before them.
    dice_average: moving average of validation_dice, of the same weight. rate: the schedule's at its end.
    updates: since the run began. batches_per_second: of its updates, with what they waited for. seconds: it took,
    validation and checkpoints included. ended: seconds since 1970 (UTC).
    """

    epoch: Annotated[int, Field(ge=1)]
    loss: Number = None
    loss_average: Number = None
    validation_dice: Number = None
    dice_average: Number = None
    dice: dict[int, Number] = field(default_factory=dict)
    rate: Number = None
    updates: int | None = None
    batches_per_second: Number = None
    seconds: Number = None
    ended: Number = None


_EPOCH: TypeAdapter[Epoch] = TypeAdapter(Epoch)


@dataclass
class Progress:
    """What a run has come to. batch_size and batches_per_epoch are the plan's unless a budget changed them. losses,
    epoch_seconds: of the epoch that has begun.
    """

    batch_size: Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
    batches_per_epoch: Annotated[int, Field(ge=1)]
    epoch: Count = 0
    seconds: Seconds = 0.0
    history: list[Epoch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    epoch_seconds: Seconds = 0.0

    def end_epoch(
        self, loss: float, dice: dict[int, float | None], rate: float, updates: int, update_seconds: float, ended: float
    ) -> Epoch:
        """Take in the epoch that has begun; ``epoch_seconds`` is what it took. updates: of this epoch, in
        update_seconds. ended: when, in seconds since 1970. Returns its line.
        """
        mean = mean_of(dice.values())
        line = Epoch(
            epoch=self.epoch + 1,
            loss=loss,
            loss_average=moving_averages([*(line.loss for line in self.history), loss])[-1],
            validation_dice=mean,
            dice_average=moving_averages([*(line.validation_dice for line in self.history), mean])[-1],
            dice=dice,
            rate=rate,
            # Only a budget's last epoch is shorter than the others.
            updates=self.epoch * self.batches_per_epoch + updates,
            batches_per_second=updates / update_seconds if update_seconds > 0 else None,
            seconds=self.epoch_seconds,
            ended=ended,
        )
        self.history.append(line)
        self.epoch += 1
        self.seconds += self.epoch_seconds
        self.epoch_seconds = 0.0
        return line


def moving_averages(values: Iterable[float | None]) -> list[float | None]:
    """The exponential one of the paper's schedule after each value; it begins with the first, and what is not known
    leaves it as it was.
    """
    found: list[float | None] = []
    average: float | None = None
    for value in values:
        if value is not None:
            average = value if average is None else AVERAGE_WEIGHT * average + (1 - AVERAGE_WEIGHT) * value
        found.append(average)
    return found


def epoch_seconds(history: Sequence[Epoch]) -> float | None:
    """What an epoch takes, by the last ones; None where nothing tells."""
    known = [line.seconds for line in history[-RECENT_EPOCHS:] if line.seconds is not None]
    return sum(known) / len(known) if known else None


def write_log(file: Path, history: Sequence[Epoch]) -> None:
    """One line an epoch, as the run knows them: those of a killed run after its checkpoint are done again."""
    write_text(file, "".join(json.dumps(asdict(line)) + "\n" for line in history))


def read_log(file: Path) -> list[Epoch]:
    """The epochs of a log; none where there is no file. A line that is no epoch does not count."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(_EPOCH.validate_json(line))
        except ValidationError:
            continue
    return found
