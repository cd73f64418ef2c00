"""What a person sees of a training run: a live display where stderr is a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nnunet_box.progress import say
from nnunet_box.training.run_log import Epoch

if TYPE_CHECKING:
    from rich.console import Console

TOLD_CLASSES = 6
"""In a line: of more classes only the ``WORST`` are told."""
WORST = 3


@dataclass(frozen=True)
class RunFacts:
    """What stays the same of a run. labels: foreground values to names. batches, checks: training and validation
    batches an epoch has. epochs: at most so many, None in a budget.
    """

    dataset: str
    model: str
    fold: int
    device: str
    batch_size: int
    labels: Mapping[int, str]
    batches: int
    checks: int
    epochs: int | None

    @property
    def name(self) -> str:
        return f"{self.model} fold {self.fold}"


@dataclass(frozen=True)
class Moment:
    """Where a run is. epoch: the one that has begun, 1 for the first. done: its training and validation batches.
    loss: its mean so far, None where that is not known. checkpoint_age: seconds since the last checkpoint, None before
    the first. seconds_left: None where nothing tells.
    """

    epoch: int
    done: int
    loss: float | None
    rate: float
    batches_per_second: float | None
    checkpoint_age: float | None
    seconds_left: float | None


class Watch(Protocol):
    """Who is told how a run goes."""

    def batch(self, moment: Callable[[], Moment]) -> None:
        """After each batch; ``moment`` costs time and is asked for where something is shown."""
        ...

    def epoch(self, line: Epoch, seconds_left: float | None) -> None:
        """At the end of each epoch."""
        ...


Show = Callable[[RunFacts, Sequence[Epoch]], AbstractContextManager[Watch]]
"""Of a run, and the epochs it has come to."""


@contextmanager
def shown(facts: RunFacts, history: Sequence[Epoch]) -> Iterator[Watch]:
    """The display that stderr can show; it leaves a terminal as it found it, however the block ends."""
    console = terminal()
    if console is None:
        yield PlainLines(facts)
        return
    from nnunet_box.training.live import live_display

    with live_display(facts, history, console) as display:
        yield display


def terminal() -> Console | None:
    """The terminal that stderr is, where it can move its cursor and has characters to draw with; else None."""
    encoding = (getattr(sys.stderr, "encoding", None) or "").lower().replace("-", "")
    if not sys.stderr.isatty() or encoding != "utf8" or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    from rich.console import Console

    return Console(stderr=True)


@dataclass(frozen=True)
class PlainLines:
    """A line an epoch."""

    facts: RunFacts

    def batch(self, moment: Callable[[], Moment]) -> None:
        """See ``Watch``."""

    def epoch(self, line: Epoch, seconds_left: float | None) -> None:
        """See ``Watch``."""
        dice = f"validation Dice {number(line.validation_dice)}{classes(line.dice, self.facts.labels)}"
        left = "" if seconds_left is None else f", {time_left(seconds_left, self.facts.epochs is not None)}"
        say(
            f"{self.facts.name} epoch {line.epoch}: loss {number(line.loss, 4)}, {dice}, "
            f"rate {line.rate or 0:.1e}{left}"
        )


def number(value: float | None, digits: int = 3) -> str:
    """A dash for what is not known."""
    return "-" if value is None else f"{value:.{digits}f}"


def classes(dice: Mapping[int, float | None], labels: Mapping[int, str]) -> str:
    """`` (left 0.910, right 0.870)``, of many classes the worst; nothing where it would only repeat the mean."""
    known = {plain(labels.get(value, f"{value}")): score for value, score in dice.items() if score is not None}
    if len(dice) < 2 or not known:
        return ""
    if len(dice) > TOLD_CLASSES:
        known = dict(sorted(known.items(), key=lambda one: one[1])[:WORST])
        return f" (worst: {', '.join(f'{name} {score:.3f}' for name, score in known.items())})"
    return f" ({', '.join(f'{name} {score:.3f}' for name, score in known.items())})"


def plain(name: str) -> str:
    """A label's name without what would control a terminal."""
    return "".join(one if one.isprintable() else "?" for one in name)


def time_left(seconds: float, at_most: bool) -> str:
    """``at most 3.2 h left``: minutes of a short time."""
    told = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return f"{'at most ' if at_most else ''}{told} left"
