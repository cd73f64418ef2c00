"""``nnbox view``: a case in the browser."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from nnunet_box.errors import UsageError

if TYPE_CHECKING:
    from nnunet_box.view.case import Layer, ViewedCase


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("view")(view)


def view(
    case: Annotated[
        str,
        typer.Argument(
            help="A case's id, or an image file: .nii, .nii.gz, .mha, .mhd, .nrrd.", autocompletion=completion.cases
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Whose case it is; the only data set of the workspace by default.",
            autocompletion=completion.data_sets,
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            "--labels", help="With an image's path: a label map to draw on it; the first is the reference. Repeatable."
        ),
    ] = None,
    prediction: Annotated[
        list[str] | None,
        typer.Option("--prediction", help="NAME=FILE, a prediction beside those of the workspace. Repeatable."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 0,
    browser: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Open the browser. By default where there is a screen and no ssh."),
    ] = None,
) -> None:
    """Show a case, its reference and every prediction of it in the browser, in slices and in 3-D; Ctrl-C ends it.

    Nothing leaves this machine, and the address that is printed works once.

    Example: nnbox view patient001_ED
    """
    from nnunet_box.interrupts import Interrupted
    from nnunet_box.progress import say
    from nnunet_box.view.server import open_server

    shown = _case(case, dataset, labels or [], _predictions(prediction or []), workspace)
    say(f"{shown.title}: {', '.join(layer.name for layer in shown.layers) or 'no label maps'}")
    try:
        with open_server(shown, port) as server:
            _announce(server.viewer.address, _has_screen() if browser is None else browser)
            server.serve_forever()
    except Interrupted as ending:
        # Its one way to end, so no failure; a scheduler's signals are.
        if ending.number != signal.SIGINT:
            raise
        say("ended.")


def _case(case: str, dataset: str | None, labels: list[Path], predictions: list[Layer], workspace: Path) -> ViewedCase:
    from nnunet_box.cli.common import open_dataset
    from nnunet_box.dataset.volumes import is_volume, strip_suffix
    from nnunet_box.view.case import Layer, case_of_dataset, case_of_file

    path = Path(case)
    if dataset is None and is_volume(path):
        first = [Layer(strip_suffix(file), file, reference=index == 0) for index, file in enumerate(labels)]
        return case_of_file(path, [*first, *predictions])
    if labels:
        raise UsageError("--labels goes with an image's path; of a data set's case the reference is known.")
    paths, opened = open_dataset(workspace, dataset)
    return case_of_dataset(paths, opened, case, predictions)


def _predictions(given: list[str]) -> list[Layer]:
    from nnunet_box.view.case import Layer

    layers = []
    for text in given:
        name, separator, file = text.partition("=")
        if not (name.strip() and separator and file):
            raise UsageError(f"--prediction {text}: write NAME=FILE.")
        layers.append(Layer(name.strip(), Path(file)))
    return layers


def _has_screen() -> bool:
    import os
    import sys

    screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return screen and "SSH_CONNECTION" not in os.environ and sys.stdout.isatty()


def _announce(address: str, open_browser: bool) -> None:
    """The address to stdout; how to reach it from elsewhere to stderr."""
    import webbrowser
    from urllib.parse import urlsplit

    from nnunet_box.progress import say

    typer.echo(address)
    port = urlsplit(address).port
    opened = open_browser and webbrowser.open(address)
    if not opened:
        say(
            "Open the address above in a browser of this machine; it works once. From another machine, run there\n"
            f"  ssh -N -L {port}:127.0.0.1:{port} THIS_MACHINE\n"
            "and open the same address in its browser."
        )
    say("Ctrl-C ends the viewer.")
