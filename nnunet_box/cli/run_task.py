"""``nnbox run-task``: what executors run; not for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnunet_box.cli.options import DEFAULT_WORKSPACE, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run-task", hidden=True)(run_task)


def run_task(
    task: Annotated[str, typer.Argument(help="Its name in the graph.")],
    argv: Annotated[list[str], typer.Argument(help="After --: the nnbox command.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Whose graph it is of.")],
    key: Annotated[str, typer.Option("--key", help="Of what its result follows from.")],
    cores: Annotated[str | None, typer.Option("--cores", help="0,1: the only ones it may use.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="slurm:17: whose job this is, and its id.")] = None,
    made: Annotated[list[Path] | None, typer.Option("--made", help="A file or folder that it makes.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Run a task of nnbox train-all, with its output in a log and its fate in a record."""
    from nnunet_box.execution import run_task as running
    from nnunet_box.workspace import Workspace

    bound = None if cores is None else [int(core) for core in cores.split(",")]
    scheduler, _, number = (job or "").partition(":")
    known = (scheduler, number) if number else None
    raise typer.Exit(running.run_task(Workspace(workspace, dataset), task, key, argv, bound, known, made or ()))
