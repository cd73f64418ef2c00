"""The ``nnbox`` command: registers the command groups and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys

import typer

from nnunet_box.cli import (
    ablate,
    archive,
    build_submission,
    convert,
    demo,
    doctor,
    evaluate,
    import_nnunet,
    plan,
    predict,
    preprocess,
    profiles,
    report,
    run_task,
    select,
    status,
    train,
    train_all,
    view,
)
from nnunet_box.cli.common import CommandGroup
from nnunet_box.errors import NnboxError
from nnunet_box.interrupts import ended_by_signals, exit_code

INTERRUPTED = 130

app = typer.Typer(
    name="nnbox",
    cls=CommandGroup,
    help="From a segmentation challenge's download to a verified leaderboard entry, with nnU-Net as its 2019 preprint "
    "describes it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: drawing boxes takes longer than everything else a command does before it begins.
    rich_markup_mode=None,
)
for group in (
    convert,
    plan,
    preprocess,
    profiles,
    train,
    train_all,
    select,
    ablate,
    predict,
    evaluate,
    import_nnunet,
    build_submission,
    archive,
    status,
    report,
    run_task,
    demo,
    view,
    doctor,
):
    group.register(app)


def main() -> None:
    """Entry point: run, print an expected error as one line on stderr, end with its exit code."""
    try:
        try:
            with ended_by_signals():
                app()
        except SystemExit:
            sys.stdout.flush()  # Not after this: a reader that is gone would be told of by the interpreter.
            raise
    except NnboxError as error:
        print(f"nnbox: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as ending:
        # typer itself turns an interrupt of a command into this code, without a word.
        if ending.code == INTERRUPTED:
            print("nnbox: interrupted; run the same command again to continue.", file=sys.stderr)
            sys.exit(exit_code())
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
