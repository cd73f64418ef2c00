"""``nnbox train-all``: everything between a converted data set and a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import DEFAULT_WORKSPACE, ChallengeOptions, DatasetArgument, JsonOption, WorkspaceOption
from nnunet_box.cli.train import (
    CHECKPOINT_EVERY,
    BatchesOption,
    BudgetOption,
    CheckpointOption,
    CompiledOption,
    DeviceOption,
    EpochsOption,
    FullPrecisionOption,
    SeedOption,
    TrackerOption,
    VariantOption,
    WorkersOption,
)
from nnunet_box.planning.variant import variant_names

if TYPE_CHECKING:
    from nnunet_box.dataset.dataset import Dataset
    from nnunet_box.execution.graph import Task
    from nnunet_box.execution.request import Request
    from nnunet_box.execution.slurm_script import SlurmOption
    from nnunet_box.workspace import Workspace

EXECUTORS = ("local", "slurm", "ray")
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm-option",
        help="slurm: an option of sbatch for all jobs, --time=8:00:00, or for one kind of them, train:--partition=gpu. "
        "May be repeated.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-all")(train_all)


def train_all(
    dataset: DatasetArgument = None,
    challenge: Annotated[
        str | None,
        typer.Option(
            "--challenge",
            help="With --source: convert this challenge's download first.",
            autocompletion=completion.challenges,
        ),
    ] = None,
    source: Annotated[Path | None, typer.Option("--source", help="The download.")] = None,
    option: ChallengeOptions = None,
    configurations: Annotated[
        str | None,
        typer.Option(
            "--configurations",
            help="Comma-separated; all of the plan by default.",
            autocompletion=completion.several(completion.configurations),
        ),
    ] = None,
    folds: Annotated[str | None, typer.Option("--folds", help="0,1,2 or 0-4; all five by default.")] = None,
    variant: VariantOption = None,
    budget: BudgetOption = None,
    epochs: EpochsOption = None,
    batches_per_epoch: BatchesOption = 250,
    seed: SeedOption = 12345,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    full_precision: FullPrecisionOption = False,
    compiled: CompiledOption = True,
    checkpoint_every: CheckpointOption = CHECKPOINT_EVERY,
    tracker: TrackerOption = None,
    executor: Annotated[
        str, typer.Option("--executor", help="local, slurm or ray.", autocompletion=completion.among(*EXECUTORS))
    ] = "local",
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            min=1,
            help="local, ray: trainings beside each other; one a GPU by default, one a machine without a GPU. "
            "slurm: as many share a budget.",
        ),
    ] = None,
    ray_address: Annotated[
        str, typer.Option("--ray-address", help="ray: the cluster; auto, HOST:PORT or ray://HOST:PORT.")
    ] = "auto",
    cpus_per_task: Annotated[
        int | None,
        typer.Option(
            "--cpus-per-task",
            min=1,
            help="ray: cores each task takes on its node; by default an even share where there are GPUs, else all.",
        ),
    ] = None,
    slurm_option: SlurmOptions = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the tasks and their state, or Slurm's scripts; run nothing.")
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Plan, preprocess, train every fold of every configuration, select, bundle. Run it again to continue after an
    interruption.

    A cascade comes last and needs all folds of 3d_lowres, so that one is trained in all of them whatever --folds says.
    A budget is shared out evenly among the networks. Example: nnbox train-all acdc --budget 10h
    """
    from nnunet_box.cli.common import challenge_options, duration, fold_numbers, names, open_dataset, training_settings
    from nnunet_box.execution.request import Request
    from nnunet_box.training.trackers import tracker_names

    _check_executor(executor)
    jobs = _slurm_options(executor, slurm_option)
    trackers = tracker_names(tracker)
    chosen = _converted(workspace, dataset, challenge, source, challenge_options(option))
    paths, opened = open_dataset(workspace, chosen)
    settings = training_settings(
        budget,
        configuration="",
        fold=0,
        variants=variant_names(variant),
        seed=seed,
        epochs=epochs,
        batches_per_epoch=batches_per_epoch,
        # Where a task runs its GPU is the only one it sees.
        device="cuda" if device.startswith("cuda") else device,
        workers=workers,
        full_precision=full_precision,
        compiled=compiled,
        checkpoint_seconds=duration(checkpoint_every, "--checkpoint-every"),
        trackers=trackers,
    )
    request = Request.of(settings, names(configurations), fold_numbers(folds))
    if executor == "local":
        _locally(paths, opened, request, device, at_once, dry_run, as_json)
    elif executor == "slurm":
        _on_slurm(paths, opened, request, device, at_once, jobs, dry_run, as_json)
    elif executor == "ray":
        _on_ray(paths, opened, request, device, at_once, cpus_per_task, ray_address, dry_run, as_json)


def _check_executor(executor: str) -> None:
    from nnunet_box.errors import UsageError

    if executor not in EXECUTORS:
        raise UsageError(f"--executor {executor}: {', '.join(EXECUTORS)}.")


def _locally(
    paths: Workspace,
    opened: Dataset,
    request: Request,
    device: str,
    at_once: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    from nnunet_box.execution.display import shown
    from nnunet_box.execution.graph import prepared_graph
    from nnunet_box.execution.local import LocalExecutor, machine_slots
    from nnunet_box.execution.schedule import walk
    from nnunet_box.locks import held

    slots = machine_slots(device, at_once)
    if dry_run:
        print_tasks(paths, prepared_graph(paths, opened, request, len(slots), keep=False), as_json)
        return
    with held(paths.lock("train-all"), f"train-all of {opened.name}"):
        tasks = prepared_graph(paths, opened, request, len(slots))
        with shown(paths, len(slots)) as report:
            walk(paths, tasks, LocalExecutor(paths, slots), report)
    _print_end(paths, opened, as_json)


def _on_ray(
    paths: Workspace,
    opened: Dataset,
    request: Request,
    device: str,
    at_once: int | None,
    cpus: int | None,
    address: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    from nnunet_box.execution.display import shown
    from nnunet_box.execution.graph import prepared_graph
    from nnunet_box.execution.ray_cluster import RayExecutor, connected, lock_words, share_of_cluster
    from nnunet_box.execution.schedule import walk
    from nnunet_box.locks import held

    with connected(address):
        share = share_of_cluster(device, cpus)
        beside = min(share.at_once, at_once or share.at_once)
        if dry_run:
            print_tasks(paths, prepared_graph(paths, opened, request, beside, keep=False), as_json)
            return
        executor = RayExecutor(paths, share, at_once)
        with held(paths.lock("train-all"), lock_words(paths)):
            tasks = prepared_graph(paths, opened, request, beside)
            with shown(paths, beside) as report:
                walk(paths, tasks, executor, lambda progress: report(executor.told_apart(progress)))
    _print_end(paths, opened, as_json)


def _print_end(paths: Workspace, opened: Dataset, as_json: bool) -> None:
    from nnunet_box.cli.common import print_json
    from nnunet_box.cli.select import print_selection
    from nnunet_box.evaluation.selection import load_selection

    selection = load_selection(paths.selection)
    if as_json:
        chosen = selection.model_dump(mode="json")
        print_json({"dataset": opened.name, "bundle": str(paths.bundle), "selection": chosen})
        return
    print_selection(selection)
    typer.echo(str(paths.bundle))
    typer.echo(f"Next: nnbox build-submission image {opened.name}", err=True)


def _slurm_options(executor: str, given: list[str] | None) -> list[SlurmOption]:
    from nnunet_box.errors import UsageError
    from nnunet_box.execution.slurm_script import parse_option

    if given and executor != "slurm":
        raise UsageError("--slurm-option needs --executor slurm.")
    return [parse_option(text) for text in given or ()]


def _on_slurm(
    paths: Workspace,
    opened: Dataset,
    request: Request,
    device: str,
    at_once: int | None,
    options: list[SlurmOption],
    dry_run: bool,
    as_json: bool,
) -> None:
    from nnunet_box.cli.common import print_json
    from nnunet_box.errors import UsageError
    from nnunet_box.execution import slurm
    from nnunet_box.execution.graph import prepared_graph
    from nnunet_box.locks import held

    if device.startswith("cuda:"):
        raise UsageError("--device: Slurm says which GPU a job gets; write cuda.")
    if dry_run:
        tasks = prepared_graph(paths, opened, request, at_once or 1, keep=False)
        known = slurm.queue_if_any()
        script = slurm.submission_script(paths, slurm.steps(paths, tasks, known), options)
        print_json({"dataset": opened.name, "script": script}) if as_json else typer.echo(script, nl=False)
        return
    slurm.queue()  # Before any planning: it may not be there.
    with held(paths.lock("train-all"), f"train-all of {opened.name}"):
        tasks = prepared_graph(paths, opened, request, at_once or 1)
        steps = slurm.steps(paths, tasks, slurm.queue())
        sent = slurm.submit(paths, steps, options)
    if as_json:
        jobs: dict[str, object] = {"dataset": opened.name, "jobs": sent, "submitted_before": len(steps) - len(sent)}
        print_json(jobs | {"bundle": None if steps else str(paths.bundle)})
        return
    for task, job in sent.items():
        typer.echo(f"{job} {task}")
    if not steps:
        typer.echo(str(paths.bundle))
        typer.echo(f"Everything is done. Next: nnbox build-submission image {opened.name}", err=True)
        return
    before = len(steps) - len(sent)
    typer.echo(f"{len(sent)} jobs submitted, {before} were before. Next: nnbox status {opened.name}", err=True)


def print_tasks(paths: Workspace, tasks: list[Task], as_json: bool) -> None:
    """Every task's state and command."""
    import shlex

    from nnunet_box.cli.common import print_json
    from nnunet_box.execution.records import states

    found = states(paths, tasks)
    if as_json:
        listed = [{"task": task.name, "state": found[task.name], "argv": ["nnbox", *task.argv]} for task in tasks]
        print_json({"dataset": paths.dataset, "tasks": listed})
        return
    for task in tasks:
        typer.echo(f"{found[task.name]:<10} {task.name:<32} nnbox {shlex.join(task.argv)}")


def _converted(
    workspace: Path, dataset: str | None, challenge: str | None, source: Path | None, options: dict[str, str]
) -> str | None:
    """Name of the data set to train; with ``source`` it is converted first, unless it is there."""
    from nnunet_box.errors import UsageError

    if source is None:
        if options:
            raise UsageError("--option needs --source: it is about how the download is converted.")
        return dataset or challenge
    if challenge is None:
        raise UsageError("--source needs --challenge: whose download is it?")
    from nnunet_box.dataset.challenge import load_challenge
    from nnunet_box.dataset.untrusted import check_source

    adapter = load_challenge(challenge, options)
    check_source(source)
    recognition = adapter.recognise(source)
    name = dataset or recognition.dataset_name
    destination = workspace / "datasets" / name
    if not destination.exists():
        adapter.convert(recognition, destination)
    return name
