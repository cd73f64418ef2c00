"""``nnbox status``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from nnunet_box.execution.records import State


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

    from nnunet_box.cli.common import open_dataset, print_json
    from nnunet_box.execution import slurm
    from nnunet_box.execution.display import task_table
    from nnunet_box.execution.graph import last_graph
    from nnunet_box.execution.ray_cluster import RAY, queued
    from nnunet_box.execution.records import describe_failure, states
    from nnunet_box.execution.schedule import Walk
    from nnunet_box.execution.slurm_script import SLURM
    from nnunet_box.execution.timeleft import seconds_left

    paths, opened = open_dataset(workspace, dataset)
    tasks = last_graph(paths, opened)
    known: dict[str, slurm.Job] = {}

    def slurm_jobs() -> dict[str, str]:
        known.update(slurm.known_jobs(paths, tasks))
        return slurm.job_states(known)

    found = states(paths, tasks, {SLURM: slurm_jobs, RAY: lambda: queued(paths, tasks)})
    remarks = slurm.remarks(paths, tasks, found, known)
    at_once = max(1, sum(state == "running" for state in found.values()))
    if as_json:
        each, together = seconds_left(paths, tasks, found, at_once)
        facts = {
            "dataset": opened.name,
            "training_cases": len(opened.cases),
            "planned": paths.plan.is_file(),
            "tasks": [_task_facts(t.name, found, each.get(t.name), remarks) for t in tasks],
            "networks": [
                {"configuration": t.settings.configuration, "fold": t.settings.fold, "state": found[t.name]}
                for t in tasks
                if t.settings is not None
            ],
            "seconds_left": together,
            "selected": paths.selection.is_file(),
            "bundled": (paths.bundle / "bundle.json").is_file(),
        }
        print_json(facts)
        return
    console = Console()
    console.print(f"{opened.name}: {len(opened.cases)} training cases")
    if not tasks:
        console.print(f"not planned yet; nnbox plan {opened.name}")
    else:
        console.print(task_table(paths, Walk(tasks, found), at_once))
    for line in _by_remark(remarks):
        console.print(line, markup=False)
    for task in tasks:
        if found[task.name] == "failed":
            console.print(describe_failure(paths, task.name), markup=False)
    console.print(f"bundled: {'yes' if (paths.bundle / 'bundle.json').is_file() else 'no'}")


def _task_facts(
    name: str, found: Mapping[str, State], seconds_left: float | None, remarks: Mapping[str, str]
) -> dict[str, object]:
    facts: dict[str, object] = {"task": name, "state": found[name], "seconds_left": seconds_left}
    return facts | ({"remark": remarks[name]} if name in remarks else {})


def _by_remark(remarks: Mapping[str, str]) -> list[str]:
    """What Slurm says, with the tasks it says it of."""
    together: dict[str, list[str]] = {}
    for name, remark in remarks.items():
        together.setdefault(remark, []).append(name)
    return [f"Slurm, {remark}: {', '.join(names)}" for remark, names in together.items()]
