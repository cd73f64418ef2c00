"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnunet_box.cli import completion

WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder that holds everything a run makes.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable JSON on stdout.")]
DatasetArgument = Annotated[
    str | None,
    typer.Argument(
        help="Name in the workspace or path to an nnU-Net v2 raw folder; the only one there if left out.",
        autocompletion=completion.data_sets,
    ),
]
ChallengeOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="NAME=VALUE, a choice the challenge leaves open; see nnbox challenges show. May be repeated."
    ),
]
DEFAULT_WORKSPACE = Path("nnbox")
