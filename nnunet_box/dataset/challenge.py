"""The seam to a challenge: what the engine asks of an adapter, and how adapters are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.cases import SourceCase
from nnunet_box.errors import UsageError

ENTRY_POINT_GROUP = "nnunet_box.challenges"


@dataclass(frozen=True)
class Recognition:
    """What an adapter found in a folder.

    root: folder the layout starts at. dataset_name: default name of the converted data set.
    labels: value to name, 0 is background. channel_names: in channel order.
    training, test: the cases. messages: what a person should know ("41 of 100 patients").
    """

    root: Path
    dataset_name: str
    labels: dict[int, str]
    channel_names: tuple[str, ...]
    training: tuple[SourceCase, ...]
    test: tuple[SourceCase, ...]
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskFacts:
    """What the organisers publish of one task; a challenge with one task has one of these.

    labels: value to name, 0 is background. channels: in channel order. training, test: cases a full download holds.
    announced: (training, test) where the organisers' figures differ from what they deliver.
    """

    name: str
    labels: dict[int, str]
    channels: tuple[str, ...]
    training: int
    test: int
    announced: tuple[int, int] | None = None


@dataclass(frozen=True)
class ChallengeFacts:
    """Declared facts, shown by ``nnbox challenges`` and written into ``dataset.json``."""

    tasks: tuple[TaskFacts, ...]
    group: str
    """What stays on one side of a split."""
    metrics: str
    submission: str
    licence: str
    reference: str
    obtain: str
    """Where to get the data."""


class Challenge(Protocol):
    """A segmentation challenge: declared facts and five verbs. Implemented by ``nnbox_challenges`` and by users."""

    name: str
    title: str
    facts: ChallengeFacts

    def recognise(self, folder: Path) -> Recognition:
        """Find the download's cases below ``folder``; raise ``InvalidData`` with the reason where it is not this
        challenge's.
        """

    def convert(self, recognition: Recognition, destination: Path, workers: int | None = None) -> None:
        """Write the nnU-Net v2 raw data set and ``cases.json`` to ``destination``, whole or not at all; ``workers``
        cases at once.
        """

    def groups(self, cases: Sequence[SourceCase]) -> dict[str, str]:
        """Case id to what must stay on one side of a split."""

    def test_cases(self, folder: Path, channels: int) -> tuple[SourceCase, ...]:
        """The cases to predict in the challenge's own test layout; raise ``InvalidData`` where there is none."""

    def export(self, labels: NDArray[np.uint8], case: SourceCase, output: Path) -> Path:
        """Write one prediction (Z, Y, X), on the source's grid, into the folder ``output`` as the leaderboard wants it.

        Return the file, ``output / case.output_name``.
        """

    def evaluate(self, predictions: Path, references: Path) -> dict[str, Any]:
        """The challenge's own metrics of a folder of predictions."""


@runtime_checkable
class HasModes(Challenge, Protocol):
    """A challenge whose scorer has quirks, and that also scores without them. The first mode is the default."""

    modes: tuple[str, ...]

    def evaluate(self, predictions: Path, references: Path, mode: str = "") -> dict[str, Any]:
        """The challenge's own metrics in one of its modes, each of which has a name."""


def evaluate_challenge(challenge: Challenge, predictions: Path, references: Path, mode: str | None) -> dict[str, Any]:
    """The challenge's own metrics, in ``mode`` where one is asked for.

    Raises
    ------
    UsageError: the challenge has no such mode.
    """
    if mode is None:
        return challenge.evaluate(predictions, references)
    if not isinstance(challenge, HasModes):
        raise UsageError(f"--mode {mode}: {challenge.name} has one way of scoring only; leave --mode out.")
    if mode not in challenge.modes:
        raise UsageError(f"--mode {mode}: {challenge.name} has {' and '.join(challenge.modes)}.")
    return challenge.evaluate(predictions, references, mode)


def challenge_names() -> list[str]:
    """Names of all installed adapters, ours and third parties'."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)})


def load_challenge(name: str) -> Challenge:
    """The adapter of that name.

    Raises
    ------
    UsageError: none is installed under the name; the message lists those that are.
    """
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            challenge: Challenge = point.load()()
            return challenge
    raise UsageError(f"No challenge {name!r}. Installed: {', '.join(challenge_names()) or 'none'}.")
