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
    """What of a data set is done, running, waiting and failed, with the time left: of the last train-all, or of
    everything that can be trained.

    Example: nnbox status acdc
    """
    from rich.console import Console

    from nnunet_box.cli.common import open_dataset
    from nnunet_box.execution.display import task_table
    from nnunet_box.execution.graph import last_graph
    from nnunet_box.execution.records import describe_failure, states
    from nnunet_box.execution.schedule import Walk
    from nnunet_box.execution.timeleft import seconds_left

    paths, opened = open_dataset(workspace, dataset)
    tasks = last_graph(paths, opened)
    found = states(paths, tasks)
    at_once = max(1, sum(state == "running" for state in found.values()))
    if as_json:
        each, together = seconds_left(paths, tasks, found, at_once)
        facts = {
            "dataset": opened.name,
            "training_cases": len(opened.cases),
            "planned": paths.plan.is_file(),
            "tasks": [{"task": t.name, "state": found[t.name], "seconds_left": each.get(t.name)} for t in tasks],
            "networks": [
                {"configuration": t.settings.configuration, "fold": t.settings.fold, "state": found[t.name]}
                for t in tasks
                if t.settings is not None
            ],
            "seconds_left": together,
            "selected": paths.selection.is_file(),
            "bundled": (paths.bundle / "bundle.json").is_file(),
        }
        typer.echo(json.dumps(facts))
        return
    console = Console()
    console.print(f"{opened.name}: {len(opened.cases)} training cases")
    if not tasks:
        console.print(f"not planned yet; nnbox plan {opened.name}")
    else:
        console.print(task_table(paths, Walk(tasks, found), at_once))
    for task in tasks:
        if found[task.name] == "failed":
            console.print(describe_failure(paths, task.name), markup=False)
    console.print(f"bundled: {'yes' if (paths.bundle / 'bundle.json').is_file() else 'no'}")
