"""``nnbox profiles``: the organisers' contracts an image can be built for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.common import CommandGroup, print_json
from nnunet_box.cli.options import JsonOption

if TYPE_CHECKING:
    from nnbox_containers.profile import Profile


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=CommandGroup, help="The organisers' contracts an image can be built for.")
    group.callback(invoke_without_command=True)(list_profiles)
    group.command("show")(show_profile)
    app.add_typer(group, name="profiles")


def list_profiles(context: typer.Context, as_json: JsonOption = False) -> None:
    """The organisers' contracts an image can be built for.

    Example: nnbox profiles --json
    """
    if context.invoked_subcommand is not None:
        return
    from nnbox_containers.profiles import PROFILES

    if as_json:
        print_json([_as_dict(profile) for profile in PROFILES.values()])
        return
    for profile in PROFILES.values():
        typer.echo(f"{profile.name}: {profile.title}")
        typer.echo(f"  runs as      {profile.run_line('IMAGE')}")
        typer.echo(f"  works under  {' '.join(profile.strictest.arguments())}")


def show_profile(
    name: Annotated[
        str,
        typer.Argument(
            help="A profile's name, or the path of a FILE.toml of your own.", autocompletion=completion.profiles
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Every fact of one profile; the names are those a profile of your own may set.

    Example: nnbox profiles show grand-challenge
    """
    from nnbox_containers.profiles import load_profile

    facts = _as_dict(load_profile(name))
    if as_json:
        print_json(facts)
        return
    rows: dict[str, str] = {}
    for field, value in facts.items():
        if isinstance(value, dict):
            given = {inner: amount for inner, amount in value.items() if amount not in (None, False, (), {})}
            rows |= {f"{field}.{inner}": _text(amount) for inner, amount in given.items()}
        else:
            rows[field] = _text(value)
    width = max(map(len, rows))
    for row, text in rows.items():
        typer.echo(f"{row:{width}}  {text}")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)


def _as_dict(profile: Profile) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(profile) | {"run": profile.run_line("IMAGE")}
