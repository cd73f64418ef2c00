"""``nnbox train``: one network."""

from __future__ import annotations

from typing import Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, JsonOption, WorkspaceOption
from nnunet_box.planning.variant import VARIANTS, model_name, variant_names

CONFIGURATION_HELP = "2d, 3d_lowres, 3d_fullres or 3d_cascade_fullres; nnbox plan shows which a data set has."
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget", help="Fit training into this time: 25m, 8h. A departure from the paper, for people without a GPU."
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option("--epochs", min=1, help="At most so many; the paper's rule may stop earlier. 1000 by default."),
]
BatchesOption = Annotated[int, typer.Option("--batches-per-epoch", min=1, help="Updates in an epoch.")]
VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant",
        help=f"Comma-separated departures from the paper: {', '.join(VARIANTS)}.",
        autocompletion=completion.several(completion.variants),
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Everything random follows from it.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.", autocompletion=completion.devices)
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that make batches; 0 makes them in this one.")
]
FullPrecisionOption = Annotated[
    bool, typer.Option("--full-precision", help="float32 alone on a GPU too; bfloat16 where it can, by default.")
]
CompiledOption = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Compile the network for the GPU, which takes it a minute.")
]
CheckpointOption = Annotated[
    str,
    typer.Option("--checkpoint-every", help="Least time between two checkpoints, which is what a killed run may lose."),
]
TrackerOption = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        help="Comma-separated, beside the fold's log.jsonl: tensorboard, mlflow. Each is an extra of the package.",
    ),
]
CHECKPOINT_EVERY = "60s"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    configuration: Annotated[
        str, typer.Option("--configuration", "-c", help=CONFIGURATION_HELP, autocompletion=completion.configurations)
    ],
    fold: Annotated[int, typer.Option("--fold", "-f", min=0, help="Which fifth of the patients to hold out.")],
    dataset: DatasetArgument = None,
    variant: VariantOption = None,
    budget: BudgetOption = None,
    epochs: EpochsOption = None,
    batches_per_epoch: BatchesOption = 250,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an unfinished run exactly where its checkpoint is.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is there and begin anew.")] = False,
    seed: SeedOption = 12345,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    full_precision: FullPrecisionOption = False,
    compiled: CompiledOption = True,
    checkpoint_every: CheckpointOption = CHECKPOINT_EVERY,
    tracker: TrackerOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Train one network on one fold, then predict and score the patients it has not seen.

    Example: nnbox train acdc --configuration 3d_fullres --fold 0
    """
    from nnunet_box.cli.common import duration, open_dataset, print_json, training_settings
    from nnunet_box.errors import UsageError
    from nnunet_box.execution.fold import train_fold
    from nnunet_box.training.trackers import tracker_names

    if resume and restart:
        raise UsageError("--resume and --restart exclude each other: give one of them.")
    paths, opened = open_dataset(workspace, dataset)
    settings = training_settings(
        budget,
        configuration=configuration,
        fold=fold,
        variants=variant_names(variant),
        seed=seed,
        epochs=epochs,
        batches_per_epoch=batches_per_epoch,
        device=device,
        workers=workers,
        full_precision=full_precision,
        compiled=compiled,
        checkpoint_seconds=duration(checkpoint_every, "--checkpoint-every"),
        trackers=tracker_names(tracker),
    )
    dice = train_fold(paths, opened, settings, resume=resume, restart=restart)
    if as_json:
        folder = str(paths.fold(model_name(configuration, settings.variants), fold))
        told = {"dataset": opened.name, "configuration": configuration, "variants": list(settings.variants)}
        print_json(told | {"fold": fold, "mean_foreground_dice": dice, "folder": folder})
        return
    typer.echo(f"{dice:.4f}")
    typer.echo(f"Next: the other folds, then nnbox select {opened.name}", err=True)
