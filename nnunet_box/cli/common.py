"""What several commands share: finding the data set, reading lists of folds, answers in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from nnunet_box.errors import UsageError

if TYPE_CHECKING:
    from nnunet_box.dataset.dataset import Dataset
    from nnunet_box.training.settings import TrainingSettings
    from nnunet_box.workspace import Workspace


class CommandGroup(TyperGroup):
    """A group whose plain help has each command's first sentence as a whole, over as many lines as it takes."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, in the order they were added."""
        rows = [(name, self.commands[name].get_short_help_str(limit=1000)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def open_dataset(workspace: Path, name: str | None) -> tuple[Workspace, Dataset]:
    """The data set's folder, read, and where its results go.

    Raises
    ------
    UsageError: no such data set. InvalidData: it is there but not as it should be.
    """
    from nnunet_box.dataset.dataset import find_dataset, load_dataset
    from nnunet_box.workspace import Workspace

    dataset = load_dataset(find_dataset(workspace, name))
    return Workspace(workspace, dataset.name), dataset


def print_json(value: Any) -> None:
    """A command's answer for machines, the only thing it writes to stdout: standard JSON, so null for NaN and infinity,
    and ASCII alone, so that no locale and no file's name can spoil it.
    """
    import json

    from nnunet_box.files import null_undefined

    print(json.dumps(null_undefined(value), indent=1, allow_nan=False))


def fold_numbers(text: str | None) -> list[int] | None:
    """``0,2,4`` or ``0-4`` to fold numbers; None stays None.

    Raises
    ------
    UsageError: anything else.
    """
    if text is None:
        return None
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise UsageError(f"--folds {text}: write 0,1,2 or 0-4.") from error
    return sorted(set(numbers))


def names(text: str | None) -> list[str] | None:
    """``2d,3d_fullres`` to its parts; None stays None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def challenge_options(given: list[str] | None) -> dict[str, str]:
    """``["rater=union"]`` to names and values.

    Raises
    ------
    UsageError: one without ``=``.
    """
    options = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"--option {text}: write NAME=VALUE.")
        options[name.strip()] = value.strip()
    return options


def duration(text: str, option: str) -> float:
    """``90s`` or ``1h30m``, given to ``option``, in seconds.

    Raises
    ------
    UsageError: it does not read as a duration.
    """
    from nnunet_box.training.budget import parse_duration

    return parse_duration(text, option)


def training_settings(budget: str | None, **options: Any) -> TrainingSettings:
    """The settings of a run from the command line's words; ``budget`` is a duration such as 25m.

    Raises
    ------
    UsageError: it does not read as one.
    """
    from nnunet_box.training.budget import parse_duration
    from nnunet_box.training.settings import TrainingSettings

    return TrainingSettings(budget_seconds=parse_duration(budget) if budget is not None else None, **options)
