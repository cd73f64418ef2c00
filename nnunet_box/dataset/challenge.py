"""The seam to a challenge: what the engine asks of an adapter, and how adapters are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.cases import SourceCase, SplitRule
from nnunet_box.dataset.installed import ENTRY_POINT_GROUP
from nnunet_box.dataset.installed import challenge_names as challenge_names  # part of this seam
from nnunet_box.errors import UsageError


@dataclass(frozen=True)
class Recognition:
    """What an adapter found in a folder.

    root: folder the layout starts at. dataset_name: default name of the converted data set.
    labels: value to name, 0 is background. channel_names: in channel order.
    training, test: the cases. messages: what a person should know ("41 of 100 patients").
    splits: how folds are to be made.
    """

    root: Path
    dataset_name: str
    labels: dict[int, str]
    channel_names: tuple[str, ...]
    training: tuple[SourceCase, ...]
    test: tuple[SourceCase, ...]
    messages: tuple[str, ...] = ()
    splits: SplitRule = "groups"


@dataclass(frozen=True)
class ChallengeOption:
    """A choice an adapter leaves to the person; its class takes it as a keyword, as text.

    choices: the values it takes; empty where any text may do, which the class then checks.
    """

    name: str
    default: str
    help: str
    choices: tuple[str, ...] = ()


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
class SubmissionForm:
    """How a leaderboard takes an archive of predictions; the defaults are what most take.

    folder: where the files lie in the archive: its root, or a folder; ``{task}`` stands for the task's name.
    beside: endings of second files, by the ending of ``output_name`` they belong to: a ``.mhd`` is nothing without its
    ``.raw``.
    dtype: how voxels are stored. Other integers are a warning, floats an error.
    labels: values allowed in a prediction; the task's own where it is None.
    same_affine: whether origin and direction count; where a scorer compares arrays only, a difference is a warning.
    most_bytes: size of the largest archive that is taken; None where no limit is published.
    """

    folder: str = ""
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {".mhd": (".raw",)})
    dtype: str = "uint8"
    labels: tuple[int, ...] | None = None
    same_affine: bool = True
    most_bytes: int | None = None

    def files(self, output_name: str) -> tuple[str, ...]:
        """Names of all files of one prediction, the one that is opened first."""
        name = PurePosixPath(output_name)
        return (output_name, *(name.with_suffix(ending).as_posix() for ending in self.beside.get(name.suffix, ())))


@dataclass(frozen=True)
class SubmissionPart:
    """What one folder of an archive has to hold. folder: empty for the root. cases: one prediction each."""

    task: TaskFacts
    folder: str
    cases: tuple[SourceCase, ...]


Certainty = Literal["verified", "secondary", "inferred", "memory"]
"""Where a fact comes from: the organisers' pages or code; a third party's code or data card; concluded from what was
read; nobody's page, only memory."""


@dataclass(frozen=True)
class PublishedScore:
    """A result others published, to be put beside ours. who: whose. structure: a label's name, or what was averaged.
    metric: ``Dice`` where ours is the same, else the challenge's word. on: the cases it was measured on. source:
    where it stands. task: of a challenge with several, whose it is.
    """

    who: str
    structure: str
    metric: str
    value: float
    on: str
    source: str
    certainty: Certainty
    task: str | None = None


MEAN = "mean of the structures"
"""``PublishedScore.structure`` of a mean over all of them."""


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
    form: SubmissionForm = field(default_factory=SubmissionForm)
    published: tuple[PublishedScore, ...] = ()
    certainty: Mapping[str, Certainty] = field(default_factory=dict)
    """How sure a fact is, by its name: a field's here (``metrics``), of ``tasks`` ``labels`` and ``counts``, or that of
    a detail ("size limit"). What is not in it is shown as not stated."""


class Challenge(Protocol):
    """A segmentation challenge: declared facts and its verbs. Implemented by ``nnbox_challenges`` and by users."""

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

    def submission(self, test_folder: Path) -> tuple[SubmissionPart, ...]:
        """What the archive for the leaderboard has to hold, by the challenge's own test layout; raises as
        ``test_cases``.
        """

    def evaluate(self, predictions: Path, references: Path) -> dict[str, Any]:
        """The challenge's own metrics of a folder of predictions."""


@runtime_checkable
class KnowsItsConversions(Challenge, Protocol):
    """A challenge that can tell a finished conversion from another one: the same command once more is then no error."""

    def is_converted(self, recognition: Recognition, destination: Path) -> bool:
        """Whether ``destination`` is what ``convert`` would make of it now."""


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


def load_challenge(name: str, options: Mapping[str, str] | None = None) -> Challenge:
    """The adapter of that name, with its options set.

    An adapter's class says in ``options``, a tuple of ``ChallengeOption``, what it takes; most take none.

    Raises
    ------
    UsageError: none is installed under the name, or it has no such option or value; the message lists those there are.
    """
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            factory = point.load()
            _check_options(name, getattr(factory, "options", ()), options or {})
            challenge: Challenge = factory(**(options or {}))
            return challenge
    raise UsageError(f"No challenge {name!r}. Installed: {', '.join(challenge_names()) or 'none'}.")


def _check_options(challenge: str, known: Sequence[ChallengeOption], given: Mapping[str, str]) -> None:
    by_name = {option.name: option for option in known}
    for name, value in given.items():
        if name not in by_name:
            raise UsageError(f"{challenge} has no option {name!r}. It takes: {', '.join(by_name) or 'none'}.")
        choices = by_name[name].choices
        if choices and value not in choices:
            raise UsageError(f"{challenge}: {name} is one of {', '.join(choices)}, not {value!r}.")
