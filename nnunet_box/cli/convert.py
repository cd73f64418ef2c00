"""``nnbox convert``, ``nnbox challenges`` and ``nnbox check``: from a download to a data set one can trust."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.common import CommandGroup, print_json
from nnunet_box.cli.options import DEFAULT_WORKSPACE, ChallengeOptions, DatasetArgument, JsonOption, WorkspaceOption
from nnunet_box.progress import say

if TYPE_CHECKING:
    from nnunet_box.dataset.challenge import Challenge, Recognition

INVALID_DATA = 3
WIDTH_OF_A_PIPE = 200
"""Columns where stdout is no terminal: a table that is read by a program must not be cut at 80."""

NOT_STATED = "not stated"
FACTS = (
    ("labels", "Labels"),
    ("counts", "Counts"),
    ("group", "Kept together"),
    ("metrics", "Metrics"),
    ("submission", "Submission"),
    ("licence", "Licence"),
    ("reference", "Cite"),
    ("obtain", "Get the data"),
)
"""Facts with a certainty of their own, and how they are called when they are printed."""

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("convert")(convert)
    app.command("check")(check)
    challenges = typer.Typer(cls=CommandGroup, help="The challenges that can be converted, scored and submitted to.")
    challenges.callback(invoke_without_command=True)(list_challenges)
    challenges.command("show")(show_challenge)
    app.add_typer(challenges, name="challenges")


def convert(
    challenge: Annotated[
        str,
        typer.Option(
            "--challenge",
            "-c",
            help="Whose download it is; see nnbox challenges.",
            autocompletion=completion.challenges,
        ),
    ],
    source: Annotated[Path, typer.Argument(help="Folder of the unpacked download.")] = Path(),
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the data set; the challenge's by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set of that name.")] = False,
    splits: Annotated[
        str | None,
        typer.Option(
            "--splits",
            help="groups: balanced folds of patients; nnunet: nnU-Net's own. Else the challenge's.",
            autocompletion=completion.among("groups", "nnunet"),
        ),
    ] = None,
    option: ChallengeOptions = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Cases at once; as cores and free memory allow by default.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Turn a challenge's download into an nnU-Net v2 raw data set.

    Every file is read and checked on the way. The data set appears whole or not at all; an interrupted conversion goes
    on where it was, and one that is finished is left as it is.

    Example: nnbox convert --challenge acdc ACDC/database
    """
    import re
    from dataclasses import replace

    from nnunet_box.cli.common import challenge_options
    from nnunet_box.dataset.challenge import KnowsItsConversions, load_challenge
    from nnunet_box.dataset.untrusted import check_source
    from nnunet_box.errors import UsageError

    adapter = load_challenge(challenge, challenge_options(option))
    if name is not None and not re.fullmatch(NAME, name):
        raise UsageError(f"--name {name!r}: letters, digits, dot, dash and underscore only, since it names folders.")
    check_source(source)
    recognition = adapter.recognise(source)
    recognition = replace(recognition, dataset_name=name or recognition.dataset_name)
    if splits is not None:
        recognition = _with_splits(recognition, splits, workspace)
    destination = workspace / "datasets" / recognition.dataset_name
    done = not overwrite and isinstance(adapter, KnowsItsConversions) and adapter.is_converted(recognition, destination)
    if not done:
        _refuse_overwriting(destination, overwrite)
    for message in recognition.messages:
        say(f"{challenge}: {message}")
    if done:
        say(f"{destination} was converted from these files before.")
    else:
        adapter.convert(recognition, destination, workers)
    result = {
        "dataset": recognition.dataset_name,
        "folder": str(destination),
        "training": len(recognition.training),
        "test": len(recognition.test),
        "groups": len(set(adapter.groups(recognition.training).values())),
        "splits": recognition.splits,
        "channels": list(recognition.channel_names),
        "labels": {str(value): label for value, label in sorted(recognition.labels.items())},
        "messages": list(recognition.messages),
    }
    if as_json:
        print_json(result)
    else:
        typer.echo(str(destination))
        say(f"{result['training']} training cases in {result['groups']} groups, {result['test']} test cases.")
        say(f"Next: nnbox train-all {recognition.dataset_name}")


def _with_splits(recognition: Recognition, splits: str, workspace: Path) -> Recognition:
    """The recognition with the folds asked for: before anything is converted, since folds that exist would stay."""
    from dataclasses import replace

    from nnunet_box.dataset.splits import rule_for
    from nnunet_box.errors import UsageError
    from nnunet_box.workspace import Workspace

    existing = Workspace(workspace, recognition.dataset_name).splits
    if existing.exists():
        raise UsageError(f"--splits {splits}: {existing} is there and would be used. Remove it, or give --name.")
    return replace(recognition, splits=rule_for(splits, recognition.splits))


def _refuse_overwriting(destination: Path, overwrite: bool) -> None:
    from nnunet_box.errors import UsageError

    if not destination.exists():
        return
    if not overwrite:
        raise UsageError(f"{destination} exists. Give --overwrite to replace it, or --name for another one.")
    if not (destination / "dataset.json").is_file():
        raise UsageError(
            f"{destination} exists and is no data set (no dataset.json), so --overwrite leaves it alone. Give --name."
        )


def check(
    dataset: DatasetArgument = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    fix: Annotated[
        bool, typer.Option("--fix", help="First repair what needs no decision, in the workspace's copy only.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at every file of a data set and list all findings at once.

    Ends with exit code 3 if one of them keeps the data set from being used. --fix writes files anew whose headers
    contradict themselves or their image's, and label maps of floats; the download stays as it is.

    Example: nnbox check acdc --fix
    """
    from dataclasses import asdict

    from nnunet_box.dataset.check import check_dataset
    from nnunet_box.dataset.dataset import find_dataset, load_dataset
    from nnunet_box.dataset.repair import repair_dataset
    from nnunet_box.workspace import Workspace

    folder = find_dataset(workspace, dataset)
    if fix:
        repairs = repair_dataset(load_dataset(folder, report=lambda problem: None), workspace)
        for repair in repairs:
            say(f"repaired {repair}")
        say(f"{len(repairs)} repairs.")
    findings = check_dataset(folder, Workspace(workspace, folder.name).splits)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(
                f"{finding.severity}: {finding.file}: expected {finding.expected}; found {finding.found}. {finding.fix}"
            )
    say(f"{folder}: {errors} errors, {len(findings) - errors} warnings.")
    if errors:
        raise typer.Exit(INVALID_DATA)


def list_challenges(context: typer.Context, as_json: JsonOption = False) -> None:
    """The challenges that can be converted, scored and submitted to.

    Example: nnbox challenges --json
    """
    if context.invoked_subcommand is not None:
        return
    from nnunet_box.dataset.challenge import challenge_names, load_challenge

    adapters = [load_challenge(name) for name in challenge_names()]
    if as_json:
        print_json([_as_dict(adapter) for adapter in adapters])
        return
    for adapter in adapters:
        _print(adapter)


def show_challenge(
    name: Annotated[str, typer.Argument(help="Name of the challenge.", autocompletion=completion.challenges)],
    as_json: JsonOption = False,
) -> None:
    """One challenge: how to get the data, what to cite, what to upload, and how sure each fact is.

    Example: nnbox challenges show acdc
    """
    from nnunet_box.dataset.challenge import load_challenge

    adapter = load_challenge(name)
    if as_json:
        print_json(_as_dict(adapter))
        return
    _print(adapter)


def _as_dict(adapter: Challenge) -> dict[str, Any]:
    from dataclasses import asdict

    facts = adapter.facts
    sure = {fact: facts.certainty.get(fact, NOT_STATED) for fact, _ in FACTS} | dict(facts.certainty)
    options = [asdict(option) for option in getattr(adapter, "options", ())]
    return {"name": adapter.name, "title": adapter.title, "options": options, **asdict(facts), "certainty": sure}


def _print(adapter: Challenge) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_PIPE)
    facts = adapter.facts
    table = Table(
        "Task", "Channels", "Labels", "Training", "Test", title=f"{adapter.name}: {adapter.title}", title_justify="left"
    )
    for task in facts.tasks:
        counts = [str(task.training), str(task.test)]
        if task.announced is not None:
            counts = [
                f"{count} ({announced} announced)" for count, announced in zip(counts, task.announced, strict=True)
            ]
        labels = ", ".join(f"{value} {label}" for value, label in task.labels.items() if value)
        table.add_row(task.name, ", ".join(task.channels), labels, *counts)
    console.print(table)
    for fact, what in FACTS:
        text = getattr(facts, fact, "as in the table")
        sure = facts.certainty.get(fact, NOT_STATED)
        console.print(f"  {what}: {text} [{sure}]", soft_wrap=True, highlight=False, markup=False)
    details = [f"{fact} [{sure}]" for fact, sure in facts.certainty.items() if fact not in dict(FACTS)]
    if details:
        console.print(f"  Details: {', '.join(details)}", soft_wrap=True, highlight=False, markup=False)
    form = facts.form
    place = f"in the folder {form.folder.format(task='TASK')}" if form.folder else "at its root"
    console.print(f"  Upload: one zip, files {place}, {form.dtype}", soft_wrap=True, highlight=False, markup=False)
    command = f"nnbox build-submission archive --challenge {adapter.name} PREDICTIONS --test-folder DIR"
    console.print(f"  Make it: {command}", soft_wrap=True, highlight=False, markup=False)
    for score in facts.published:
        of_task = f"{score.task}, " if score.task is not None else ""
        text = f"  Published: {of_task}{score.structure}, {score.metric} {score.value:g}, {score.who}, {score.on}"
        console.print(f"{text} ({score.source}) [{score.certainty}]", soft_wrap=True, highlight=False, markup=False)
    for option in getattr(adapter, "options", ()):
        choices = f" ({', '.join(option.choices)})" if option.choices else ""
        text = f"  --option {option.name}={option.default}: {option.help}{choices}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    console.print()
