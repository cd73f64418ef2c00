"""``nnbox demo``: the whole chain on a small synthetic cohort, in minutes, with nothing to download first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import JsonOption
from nnunet_box.progress import say

if TYPE_CHECKING:
    from nnunet_box.cli.demo_chain import DemoResult

SANITY_DICE = 0.5
"""Mean foreground Dice on the held-out patients under which something is broken: guessing gives about 0.05, a network
that has learned the ventricles and not yet their outlines about 0.6."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder of the demo; one left by an earlier demo is replaced.")
    ] = Path("nnbox-demo"),
    budget: Annotated[str, typer.Option("--budget", help="Training time for all networks together.")] = "90s",
    folds: Annotated[int, typer.Option("--folds", min=1, max=5, help="Networks to train a configuration.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Go on from what an earlier demo left in the folder.")] = False,
    image: Annotated[bool, typer.Option("--image/--no-image", help="Build a submission image and run it.")] = True,
    base_image: Annotated[
        str | None, typer.Option("--base-image", help="Image with python3 to build on; python:X.Y-slim by default.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda or cuda:INDEX.", autocompletion=completion.devices)
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw a cohort in ACDC's layout, then convert, plan, train, select, predict, evaluate and build an image.

    Ends with Dice per structure on the held-out patients and an overlay picture; with exit code 1 if their mean Dice is
    under 0.5. Without a container engine the image is skipped.

    Example: nnbox demo --budget 5m
    """
    from nnunet_box.cli.common import print_json
    from nnunet_box.cli.demo_chain import DemoSettings, prepare_workspace, run_demo
    from nnunet_box.errors import NnboxError
    from nnunet_box.training.budget import parse_duration

    settings = DemoSettings(
        workspace, parse_duration(budget), folds, device=device, base_image=base_image, image=image or bool(base_image)
    )
    prepare_workspace(workspace, keep)
    result = run_demo(settings)
    print_json(as_dict(result)) if as_json else show(result)
    mean = result.comparison.mean_foreground_dice
    if not mean >= SANITY_DICE:
        raise NnboxError(
            f"The mean Dice of {mean:.3f} is under the demo's floor of {SANITY_DICE}. "
            f"On a slow or busy machine give it more time: nnbox demo --budget 10m; {workspace}/logs and "
            f"{workspace}/models hold what happened."
        )


def dice_by_phase(result: DemoResult) -> dict[str, dict[str, float]]:
    """Structure to Dice at ED, at ES, and over both; a structure that is on neither side of a case does not count."""
    from nnunet_box.evaluation.summary import nan_mean

    comparison = result.comparison
    table = {}
    for label, name in comparison.labels.items():
        scores = {case: structures[label].dice for case, structures in comparison.cases.items()}
        phases = {
            phase: nan_mean(dice for case, dice in scores.items() if case.endswith(f"_{phase}"))
            for phase in ("ED", "ES")
        }
        table[name] = {**phases, "both": nan_mean(scores.values())}
    return table


def as_dict(result: DemoResult) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "dice": dice_by_phase(result),
        "mean_foreground_dice": result.comparison.mean_foreground_dice,
        "cases": len(result.comparison.cases),
        "chosen": list(result.selection.chosen),
        "cross_validation_dice": result.selection.best.mean_foreground_dice,
        "overlay": str(result.overlay),
        "image": result.image,
        "image_note": result.note,
    }


def show(result: DemoResult) -> None:
    """The table and the paths on stdout, what to do next on stderr."""
    from rich.console import Console
    from rich.table import Table

    comparison = result.comparison
    chosen = " + ".join(result.selection.chosen)
    table = Table(title=f"Dice on {len(comparison.cases)} held-out images, {chosen}", title_justify="left")
    table.add_column("structure")
    for column in ("ED", "ES", "both"):
        table.add_column(column, justify="right")
    for name, values in dice_by_phase(result).items():
        table.add_row(name, *(f"{value:.3f}" for value in values.values()))
    table.add_section()
    table.add_row("mean", "", "", f"{comparison.mean_foreground_dice:.3f}")
    Console().print(table)
    print(f"overlay: {result.overlay}")
    print(f"image: {result.image or '-'}")
    say(result.note)
    say("With real data: nnbox convert --challenge acdc FOLDER, then nnbox train-all acdc --budget 8h")
