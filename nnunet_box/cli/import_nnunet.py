"""``nnbox import-nnunet``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import JsonOption


class CheckpointName(StrEnum):
    """Which of a fold's checkpoints."""

    FINAL = "final"
    BEST = "best"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import-nnunet")(import_nnunet)


def import_nnunet(
    model_folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL_FOLDER...",
            help="nnU-Net v2's folder TRAINER__PLANS__CONFIGURATION; several make an ensemble.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the bundle to.")],
    folds: Annotated[
        str | None, typer.Option("--folds", help="0,1,2 or 0-4, or all for fold_all; every trained one by default.")
    ] = None,
    checkpoint: Annotated[
        CheckpointName, typer.Option("--checkpoint", help="final, as nnU-Net predicts with, or best.")
    ] = CheckpointName.FINAL,
    challenge: Annotated[
        str | None,
        typer.Option(
            "--challenge",
            "-c",
            help="Whose test layout the bundle reads; plain folders without.",
            autocompletion=completion.challenges,
        ),
    ] = None,
    previous_stage: Annotated[
        Path | None,
        typer.Option("--previous-stage", help="Folder of a cascade's first stage, if it is not beside the cascade's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle of a model that nnU-Net v2 trained; it predicts what nnU-Net predicts.

    Example: nnbox import-nnunet nnUNet_results/Dataset027_ACDC/nnUNetTrainer__nnUNetPlans__3d_fullres -o acdc-bundle
    """
    from nnunet_box.cli.common import fold_numbers, print_json
    from nnunet_box.dataset.challenge import load_challenge
    from nnunet_box.importing.model import import_models
    from nnunet_box.progress import say

    if challenge is not None:
        load_challenge(challenge)
    numbers = "all" if folds == "all" else fold_numbers(folds)
    kind = "final" if checkpoint is CheckpointName.FINAL else "best"
    bundle = import_models(model_folders, output, numbers, kind, challenge, previous_stage)  # type: ignore[arg-type]
    models = {stage.configuration: [entry.fold for entry in stage.weights] for stage in bundle.stages}
    if as_json:
        result = {"bundle": str(output), "dataset": bundle.dataset, "challenge": bundle.challenge, "models": models}
        print_json(result)
        return
    for name, fold_list in models.items():
        say(f"{bundle.dataset}: {name}, folds {', '.join(map(str, fold_list))}")
    typer.echo(str(output))
    say(f"Next: nnbox predict {output} INPUT OUTPUT, or nnbox build-submission image {output}")
