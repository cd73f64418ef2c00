"""``nnbox preprocess``."""

from __future__ import annotations

from typing import Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, WorkspaceOption
from nnunet_box.cli.train import VariantOption
from nnunet_box.planning.variant import model_name, variant_names


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("preprocess")(preprocess)


def preprocess(
    dataset: DatasetArgument = None,
    configurations: Annotated[
        str | None,
        typer.Option(
            "--configurations",
            help="Comma-separated; all of the plan by default.",
            autocompletion=completion.several(completion.configurations),
        ),
    ] = None,
    previous_stage: Annotated[
        str | None,
        typer.Option("--previous-stage", help="3d_cascade_fullres: prepare its input, predictions of 3d_lowres."),
    ] = None,
    variant: VariantOption = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Cases at once; one a core by default.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Crop, resample and normalise every training case into the case store. Plans first if there is no plan.

    3d_cascade_fullres shares the store of 3d_fullres; its other input, predictions of 3d_lowres, is prepared by
    --previous-stage once all folds of 3d_lowres are trained, or by train.

    Example: nnbox preprocess acdc --configurations 2d,3d_fullres
    """
    from nnunet_box.cli.common import names, open_dataset
    from nnunet_box.errors import UsageError
    from nnunet_box.execution.folds import previous_predictions
    from nnunet_box.execution.prepare import (
        check_configurations,
        existing_plan,
        prepare_previous_stage,
        preprocess_configurations,
    )

    paths, opened = open_dataset(workspace, dataset)
    plan = existing_plan(paths, opened, processes)
    if previous_stage is not None:
        variants = variant_names(variant)
        predictions = previous_predictions(paths, opened, plan, previous_stage, variants)
        if predictions is None:
            raise UsageError(f"--previous-stage {previous_stage}: it takes no predictions as input; leave it out.")
        model = model_name(previous_stage, variants)
        typer.echo(str(prepare_previous_stage(paths, opened, plan, model, predictions, processes)))
        return
    wanted = check_configurations(plan, names(configurations))
    for folder in preprocess_configurations(paths, opened, plan, wanted, processes):
        typer.echo(str(folder))
