"""``nnbox report``: one page on a data set and what was made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, JsonOption, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    dataset: DatasetArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; WORKSPACE/reports/DATASET/report.html by default."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Cases read at once; one a core by default.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Everything there is on a data set as one HTML file that needs no network: cases, plan, trainings,
    cross-validation, the worst, median and best cases, selection, published scores, what is shipped.

    Works at any time; what is not there yet is left out. --json prints the numbers behind the charts.

    Example: nnbox report acdc --open
    """
    import webbrowser

    from nnunet_box.cli.common import open_dataset, print_json
    from nnunet_box.progress import say
    from nnunet_box.report.gather import gather
    from nnunet_box.report.page import chart_data, write_report
    from nnunet_box.report.tables import verdict

    paths, opened = open_dataset(workspace, dataset)
    facts = gather(paths, opened, processes)
    file = output or paths.report / "report.html"
    write_report(facts, file, paths.bundle, processes)
    say(verdict(facts))
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size, **chart_data(facts)})
    else:
        typer.echo(str(file))
    if open_page and not webbrowser.open(file.absolute().as_uri()):
        say(f"No browser was found; open {file} in one.")
