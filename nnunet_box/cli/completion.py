"""What a shell offers for the value of an argument or option when a person presses the tabulator key.

Each function takes what typer hands it: the context with the values typed so far, and the word's beginning. It answers
fast and without a word: what cannot be read is left out, since a message would land in the middle of the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import typer

Complete = Callable[[typer.Context, str], list[str]]


def among(*values: str) -> Complete:
    """These values."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        return _beginning(values, incomplete)

    return complete


devices = among("auto", "cpu", "cuda")


def several(complete: Complete, separator: str = ",") -> Complete:
    """Values with a separator between them, each once."""

    def complete_last(context: typer.Context, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(separator)
        given = before.split(separator)
        return [f"{before}{comma}{value}" for value in complete(context, last) if value not in given]

    return complete_last


def data_sets(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the data sets in the workspace."""
    found = _workspace(context).glob("datasets/[!.]*/dataset.json")
    return _beginning(sorted(file.parent.name for file in found), incomplete)


def cases(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of the training cases of the data set that is named, or is the only one."""
    names = [context.params["dataset"]] if context.params.get("dataset") else data_sets(context, "")
    found = {
        re.sub(r"_\d{4}\..*", "", file.name)
        for name in names
        for file in (_workspace(context) / "datasets" / Path(name).name / "imagesTr").glob("[!.]*")
    }
    return _beginning(sorted(found), incomplete)


def bundles(context: typer.Context, incomplete: str) -> list[str]:
    """Folders of the bundles in the workspace, as paths."""
    found = _workspace(context).glob("bundles/[!.]*/bundle.json")
    return _beginning(sorted(str(file.parent) for file in found), incomplete)


def challenges(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the installed adapters."""
    from nnunet_box.dataset.installed import challenge_names

    return _beginning(challenge_names(), incomplete)


def profiles(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the organisers' contracts."""
    from nnbox_containers.profiles import PROFILES

    return _beginning(sorted(PROFILES), incomplete)


def variants(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the departures from the paper."""
    from nnunet_box.planning.variant import VARIANTS

    return _beginning(VARIANTS, incomplete)


def configurations(context: typer.Context, incomplete: str) -> list[str]:
    """The configurations of the data set's plan; all there can be where it has none."""
    from nnunet_box.errors import NnboxError
    from nnunet_box.planning.plan import MODELS, load_plan
    from nnunet_box.workspace import Workspace

    # An option without its value, which is being typed, keeps typer from telling arguments by name.
    name = context.params.get("dataset") or next(iter(context.args), None)
    names = [Path(name).name] if name else data_sets(context, "")
    planned: Iterable[str] = MODELS
    if len(names) == 1:
        with suppress(NnboxError):
            planned = load_plan(Workspace(_workspace(context), names[0]).plan).models
    return _beginning(planned, incomplete)


def _workspace(context: typer.Context) -> Path:
    from nnunet_box.cli.options import DEFAULT_WORKSPACE

    return Path(context.params.get("workspace") or DEFAULT_WORKSPACE)


def _beginning(values: Iterable[str], incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
