"""``nnbox predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import ChallengeOptions, JsonOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("predict")(predict)


def predict(
    bundle: Annotated[
        Path, typer.Argument(help="The bundle's folder, such as nnbox/bundles/acdc.", autocompletion=completion.bundles)
    ],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A challenge's test folder, a folder of cases, or one case.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder for the predictions and run.json.")],
    challenge: Annotated[
        str | None,
        typer.Option(
            "--challenge", help="Whose layout INPUT has; the bundle's by default.", autocompletion=completion.challenges
        ),
    ] = None,
    option: ChallengeOptions = None,
    folds: Annotated[str | None, typer.Option("--folds", help="Only these folds' networks.")] = None,
    no_mirroring: Annotated[bool, typer.Option("--no-mirroring", help="8 times faster in 3D, a little worse.")] = False,
    plain_overlap: Annotated[
        bool, typer.Option("--plain-overlap", help="Weight windows evenly, as the paper says, not by a Gaussian.")
    ] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Keep softmax beside the labels.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out cases whose prediction is there.")] = False,
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            help="auto, torch or openvino (CPU). auto: a GPU with torch, else OpenVINO.",
            autocompletion=completion.among("auto", "torch", "openvino"),
        ),
    ] = "auto",
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.", autocompletion=completion.devices)
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Predict with a bundle's ensemble and write files as the leaderboard wants them.

    Example: nnbox predict nnbox/bundles/acdc ACDC/database/testing predictions
    """
    from nnunet_box.bundle import load_bundle
    from nnunet_box.cli.common import challenge_options, fold_numbers, print_json
    from nnunet_box.dataset.challenge import load_challenge
    from nnunet_box.inference.choose import network_loader
    from nnunet_box.inference.ensemble import InferenceOptions
    from nnunet_box.inference.folder import Predictor, exporter, input_cases, predict_folder
    from nnunet_box.inference.stopping import stop_on_signals

    loaded = load_bundle(bundle, check_weights=True)
    name = challenge or loaded.challenge
    adapter = load_challenge(name, challenge_options(option)) if name else None
    cases = input_cases(source, len(loaded.channel_names), adapter)
    numbers = fold_numbers(folds)
    members = loaded.ensemble(bundle, tuple(numbers) if numbers is not None else None)
    load, description = network_loader(loaded.plan, runtime, device)
    mirroring = loaded.mirroring and not no_mirroring
    options = InferenceOptions(mirroring=mirroring, weighting="plain" if plain_overlap else "gaussian")
    predictor = Predictor(loaded, members, load, options, description)
    with stop_on_signals([output]):
        run = predict_folder(predictor, cases, output, exporter(adapter), resume, save_probabilities)
    print_json(run) if as_json else typer.echo(str(output))
