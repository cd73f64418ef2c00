"""``nnbox train-all``: everything between a converted data set and a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnunet_box.cli.options import DEFAULT_WORKSPACE, ChallengeOptions, DatasetArgument, WorkspaceOption
from nnunet_box.cli.train import (
    BatchesOption,
    BudgetOption,
    CompiledOption,
    DeviceOption,
    EpochsOption,
    FullPrecisionOption,
    SeedOption,
    VariantOption,
    WorkersOption,
)
from nnunet_box.planning.variant import model_name, variant_names


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-all")(train_all)


def train_all(
    dataset: DatasetArgument = None,
    challenge: Annotated[
        str | None, typer.Option("--challenge", help="With --source: convert this challenge's download first.")
    ] = None,
    source: Annotated[Path | None, typer.Option("--source", help="The download.")] = None,
    option: ChallengeOptions = None,
    configurations: Annotated[
        str | None, typer.Option("--configurations", help="Comma-separated; all of the plan by default.")
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the networks to train and their state; train nothing.")
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Plan, preprocess, train every fold of every configuration, select, bundle. Run it again to continue after an
    interruption.

    A cascade comes last and needs all folds of 3d_lowres, so that one is trained in all of them whatever --folds says.
    A budget is shared out evenly among the networks. Example: nnbox train-all acdc --budget 10h
    """
    from nnunet_box.cli.common import challenge_options, fold_numbers, names, open_dataset, training_settings
    from nnunet_box.cli.select import print_selection
    from nnunet_box.execution import chain
    from nnunet_box.execution.prepare import existing_plan

    chosen = _converted(workspace, dataset, challenge, source, challenge_options(option))
    paths, opened = open_dataset(workspace, chosen)
    wanted, numbers = names(configurations), fold_numbers(folds)
    variants = variant_names(variant)
    if dry_run:
        tasks = chain.training_tasks(paths, opened, existing_plan(paths, opened), wanted, numbers)
        for task, state in zip(tasks, chain.task_states(paths, tasks, variants), strict=True):
            typer.echo(f"{model_name(task.configuration, variants)} fold {task.fold}: {state['state']}")
        return
    settings = training_settings(
        budget,
        configuration="",
        fold=0,
        variants=variants,
        seed=seed,
        epochs=epochs,
        batches_per_epoch=batches_per_epoch,
        device=device,
        workers=workers,
        full_precision=full_precision,
        compiled=compiled,
    )
    selection, _ = chain.train_all(paths, opened, settings, wanted, numbers)
    print_selection(selection)
    typer.echo(str(paths.bundle))
    typer.echo(f"Next: nnbox build-submission image {opened.name}", err=True)


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
