"""``nnbox ablate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, JsonOption, WorkspaceOption
from nnunet_box.cli.train import (
    CONFIGURATION_HELP,
    BatchesOption,
    BudgetOption,
    CompiledOption,
    DeviceOption,
    EpochsOption,
    FullPrecisionOption,
    SeedOption,
    WorkersOption,
)

if TYPE_CHECKING:
    from nnunet_box.execution.ablation import Ablation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ablate")(ablate)


def ablate(
    dataset: DatasetArgument = None,
    variants: Annotated[
        str | None,
        typer.Option(
            "--variants",
            autocompletion=completion.several(completion.several(completion.variants, "+")),
            help="Comma-separated rows, + joins departures of one row; the six of the paper's Figure 2 by default.",
        ),
    ] = None,
    configuration: Annotated[
        str, typer.Option("--configuration", "-c", help=CONFIGURATION_HELP, autocompletion=completion.configurations)
    ] = "3d_fullres",
    fold: Annotated[int, typer.Option("--fold", "-f", min=0, help="The one split.")] = 0,
    budget: BudgetOption = None,
    epochs: EpochsOption = None,
    batches_per_epoch: BatchesOption = 250,
    seed: SeedOption = 12345,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    full_precision: FullPrecisionOption = False,
    compiled: CompiledOption = True,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Change one design choice at a time and compare on one split, as the paper's Figure 2 does. Run it again to
    continue after an interruption.

    A budget is shared out evenly.

    Example: nnbox ablate acdc --budget 7h --variants relu,sgd-poly+deep-supervision
    """
    from nnunet_box.cli.common import open_dataset, print_json, training_settings
    from nnunet_box.execution.ablation import FIGURE_2
    from nnunet_box.execution.ablation import ablate as compare
    from nnunet_box.planning.variant import variant_names

    rows = [part.strip() for part in (variants or ",".join(FIGURE_2)).split(",") if part.strip()]
    chosen = [variant_names(row.replace("+", ",")) for row in rows]
    paths, opened = open_dataset(workspace, dataset)
    settings = training_settings(
        budget,
        configuration=configuration,
        fold=fold,
        epochs=epochs,
        batches_per_epoch=batches_per_epoch,
        seed=seed,
        device=device,
        workers=workers,
        full_precision=full_precision,
        compiled=compiled,
    )
    ablation = compare(paths, opened, settings, chosen)
    if as_json:
        print_json(ablation.model_dump(mode="json"))
        return
    _print(ablation)
    typer.echo(str(paths.models / "ablation.json"))


def _print(ablation: Ablation) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    structures = {label: name for label, name in ablation.labels.items() if label}
    title = f"{ablation.dataset}, {ablation.configuration}, fold {ablation.fold}"
    if ablation.paper_dice is not None:
        title += f" (paper: {ablation.paper_dice:.2f})"
    variant = Column("variant", overflow="fold")
    table = Table(variant, *structures.values(), "mean", "change", "paper's change", title=title)
    for row in ablation.rows:
        dice = ("-" if row.dice[label] is None else f"{row.dice[label]:.4f}" for label in structures)
        paper = "-" if row.paper_change is None else f"{row.paper_change:+.1f} %"
        table.add_row(row.variant, *dice, f"{row.mean_foreground_dice:.4f}", f"{row.change:+.1f} %", paper)
    Console().print(table)
