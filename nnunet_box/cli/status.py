"""``nnbox status``."""

from __future__ import annotations

import json

import typer

from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, JsonOption, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(
    dataset: DatasetArgument = None, workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False
) -> None:
    """What of a data set is done, unfinished and waiting.

    Example: nnbox status acdc
    """
    from rich.console import Console
    from rich.table import Table

    from nnunet_box.cli.common import open_dataset
    from nnunet_box.execution.chain import task_states, training_tasks
    from nnunet_box.planning.plan import load_plan

    paths, opened = open_dataset(workspace, dataset)
    states = []
    if paths.plan.is_file():
        states = task_states(paths, training_tasks(paths, opened, load_plan(paths.plan), None, None))
    facts = {
        "dataset": opened.name,
        "training_cases": len(opened.cases),
        "planned": paths.plan.is_file(),
        "networks": states,
        "selected": paths.selection.is_file(),
        "bundled": (paths.bundle / "bundle.json").is_file(),
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    table = Table("network", "state", title=f"{opened.name}: {len(opened.cases)} training cases")
    for state in states:
        table.add_row(f"{state['configuration']} fold {state['fold']}", str(state["state"]))
    console = Console()
    console.print(table if states else f"{opened.name}: not planned yet; nnbox plan {opened.name}")
    for name in ("selected", "bundled"):
        console.print(f"{name}: {'yes' if facts[name] else 'no'}")
