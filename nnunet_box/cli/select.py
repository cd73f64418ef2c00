"""``nnbox select``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from nnunet_box.evaluation.selection import Selection


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("select")(select)


def select(
    dataset: DatasetArgument = None,
    configurations: Annotated[
        str | None,
        typer.Option(
            "--configurations",
            autocompletion=completion.several(completion.configurations),
            help="Comma-separated; all that are trained by default. Variants by their folder's name: 3d_fullres__relu.",
        ),
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="0,1,2 or 0-4; those that are finished by default.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Choose the best configuration or pair, and whether to keep only largest components, by cross-validation; write
    the bundle.

    Example: nnbox select acdc
    """
    from nnunet_box.cli.common import fold_numbers, names, open_dataset, print_json
    from nnunet_box.execution.choose import select_and_bundle

    paths, opened = open_dataset(workspace, dataset)
    selection, _ = select_and_bundle(paths, opened, names(configurations), fold_numbers(folds))
    if as_json:
        print_json(selection.model_dump(mode="json"))
        return
    print_selection(selection)
    typer.echo(str(paths.bundle))
    typer.echo(f"Next: nnbox build-submission image {opened.name}", err=True)


def print_selection(selection: Selection) -> None:
    """All candidates as a table, the chosen one marked, and the postprocessing."""
    from rich.console import Console
    from rich.table import Table

    names = {label: name for label, name in selection.labels.items() if label}
    table = Table(
        "candidate", *names.values(), "mean", "", title=f"{selection.cases} validation cases, folds {selection.folds}"
    )
    for candidate in selection.candidates:
        mark = "chosen" if candidate.configurations == selection.chosen else ""
        table.add_row(
            candidate.name,
            *(_dice(candidate.dice.get(label)) for label in names),
            _dice(candidate.mean_foreground_dice),
            mark,
        )
    console = Console()
    console.print(table)
    steps = selection.postprocessing.steps
    kept = "; ".join("largest component of " + " + ".join(names[label] for label in step) for step in steps)
    console.print(f"Postprocessing: {kept or 'none, since cross-validation gains nothing from it'}")


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
