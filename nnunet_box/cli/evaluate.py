"""``nnbox evaluate``: predictions beside references, by our metrics or by the challenge's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.common import print_json
from nnunet_box.cli.options import ChallengeOptions, JsonOption
from nnunet_box.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from nnunet_box.evaluation.comparison import Comparison

WIDTH_OF_A_PIPE = 200
"""Columns where stdout is no terminal: a table that is read by a program must not be cut at 80."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted label maps, or one file.")],
    references: Annotated[Path, typer.Argument(help="Folder of reference label maps of the same names, or one file.")],
    challenge: Annotated[
        str | None,
        typer.Option("--challenge", help="Use this challenge's own metrics.", autocompletion=completion.challenges),
    ] = None,
    option: ChallengeOptions = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="With --challenge: official (the organisers' quirks too, the default) or clean, where it has both.",
            autocompletion=completion.among("official", "clean"),
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", "--dataset-json", help="dataset.json that names the structures; looked for beside REFERENCES."
        ),
    ] = None,
    tolerance_mm: Annotated[
        float, typer.Option("--tolerance-mm", min=0.0, help="Tolerance of the surface Dice in millimetres.")
    ] = 1.0,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out cases that only one side has, instead of refusing them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Dice, 95 % Hausdorff distance and surface Dice per structure, or with --challenge the challenge's own metrics.

    Example: nnbox evaluate predictions references --labels nnbox/datasets/acdc/dataset.json
    """
    from nnunet_box.evaluation.comparison import compare, find_label_names, pair_files, read_label_names

    if challenge is not None:
        from nnunet_box.cli.common import challenge_options
        from nnunet_box.dataset.challenge import evaluate_challenge, load_challenge

        adapter = load_challenge(challenge, challenge_options(option))
        scores = evaluate_challenge(adapter, predictions, references, mode)
        print_json(scores) if as_json else _print_scores(challenge, scores)
        return
    if mode is not None:
        raise UsageError("--mode needs --challenge: it chooses among a challenge's own ways of scoring.")
    names = read_label_names(labels) if labels is not None else find_label_names(references)
    comparison = compare(pair_files(predictions, references, partial), names, tolerance_mm)
    print_json(comparison.as_json()) if as_json else _print_comparison(comparison)


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_PIPE)


def _print_comparison(comparison: Comparison) -> None:
    from rich.table import Table

    one_sided = "One structure missing: Dice 0 counts, the infinite distances do not."
    table = Table(
        title=f"{len(comparison.cases)} cases, means over cases",
        caption=one_sided if any(comparison.means(label).one_sided for label in comparison.labels) else None,
    )
    table.add_column("structure")
    surface = f"surface Dice at {comparison.tolerance_mm:g} mm"
    for column in ("Dice", "HD95 [mm]", surface, "ASSD [mm]", "cases", "one side only"):
        table.add_column(column, justify="right")
    for label, name in comparison.labels.items():
        means = comparison.means(label)
        scores = means.scores
        values = (scores.dice, 4), (scores.hausdorff_95, 2), (scores.surface_dice, 4), (scores.assd, 2)
        numbers = [_number(value, digits) for value, digits in values]
        table.add_row(name, *numbers, str(means.cases), str(means.one_sided))
    table.add_section()
    table.add_row("mean", _number(comparison.mean_foreground_dice, 4), "", "", "", "", "")
    _console().print(table)


def _print_scores(challenge: str, scores: dict[str, Any]) -> None:
    """A challenge's scores, whatever their shape: one line a number, its keys joined by dots; single cases are for
    --json.
    """
    from rich.table import Table

    table = Table(title=f"{challenge}: the challenge's own metrics", caption="Single cases: --json")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in _flat(scores):
        table.add_row(name, _number(value, 4) if isinstance(value, float) else str(value))
    _console().print(table)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif not isinstance(value, list | tuple):
        yield prefix, value


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
