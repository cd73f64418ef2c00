"""``nnbox plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_box.cli.common import print_json
from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from nnunet_box.planning.plan import Configuration


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(
    dataset: DatasetArgument = None,
    fingerprint: Annotated[
        Path | None, typer.Option("--fingerprint", help="Plan from this fingerprint alone; nothing is written.")
    ] = None,
    memory_gb: Annotated[
        float, typer.Option("--memory-gb", min=0.1, help="GPU memory to plan for; the paper's card had 12.")
    ] = 12.0,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Read the data set's fingerprint and plan preprocessing, patches, batches and networks from it.

    Example: nnbox plan acdc --memory-gb 8

    Example: nnbox plan --fingerprint fingerprint.json --json
    """
    if fingerprint is not None:
        from nnunet_box.planning.fingerprint import load_fingerprint
        from nnunet_box.planning.planner import plan_configurations

        configurations = plan_configurations(load_fingerprint(fingerprint), memory_gb)
    else:
        from nnunet_box.cli.common import open_dataset
        from nnunet_box.execution.prepare import plan_dataset

        paths, opened = open_dataset(workspace, dataset)
        configurations = plan_dataset(paths, opened, memory_gb).configurations
        typer.echo(f"Written: {paths.plan}", err=True)
    if as_json:
        print_json({"configurations": {name: one.model_dump(mode="json") for name, one in configurations.items()}})
        return
    _print_table(configurations)


def _print_table(configurations: dict[str, Configuration]) -> None:
    from rich.console import Console
    from rich.table import Table

    from nnunet_box.planning.plan import CASCADE, FIRST_STAGE, SECOND_STAGE

    table = Table("configuration", "spacing (mm)", "median shape", "patch", "batch", "pooling", "features")
    for name, one in configurations.items():
        table.add_row(
            name,
            " x ".join(f"{value:.3g}" for value in one.spacing),
            " x ".join(map(str, one.median_shape)),
            " x ".join(map(str, one.patch_size)),
            str(one.batch_size),
            ", ".join(map(str, one.num_pool_per_axis)),
            " ".join(map(str, one.features)),
        )
    console = Console()
    console.print(table)
    if FIRST_STAGE in configurations:
        console.print(f"{CASCADE}: as {SECOND_STAGE}, with the label map of {FIRST_STAGE} as further input")
