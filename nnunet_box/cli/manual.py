"""The page of all commands, made from the commands themselves: ``python -m nnunet_box.cli.manual docs/commands.md``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

EXIT_CODES = {
    0: "done",
    1: "failed: the disk is full, a task of several failed, something is missing on this machine",
    2: "usage: an unknown option, name or value; nothing was begun",
    3: "invalid data: a file or folder is not what it has to be; the message names it, with what to do",
    4: "no container engine answers",
    5: "an organiser would refuse the image or the archive; the first reason is told",
    75: "ended by a scheduler's signal before a time limit (SIGUSR1); the same command continues",
    130: "interrupted (Ctrl-C); the same command continues",
    143: "ended by SIGTERM; the same command continues",
}
EVERY_COMMANDS = (0, 1, 2, 3, 75, 130, 143)
FURTHER_CODES: dict[str, tuple[int, ...]] = {
    "build-submission image": (4,),
    "build-submission archive": (5,),
    "verify-submission image": (4, 5),
    "verify-submission archive": (5,),
    "demo": (4,),
}
"""By command: what it may end with beyond ``EVERY_COMMANDS``."""

EXAMPLE = re.compile(r"^.*?Example: +(nnbox [^\n]+)$", flags=re.M)

HEAD = """# Commands

Made from the commands themselves by `make docs`; a test says when this page is older than they are.
`nnbox COMMAND --help` prints the same.

- Data go to stdout, messages and progress to stderr. With `--json` stdout holds one JSON value and nothing else; what
  is undefined or infinite is `null` there.
- `DATASET` is a name in the workspace or the path of an nnU-Net v2 raw folder. It may be left out where the workspace
  holds only one.
- Durations are written `90s`, `25m`, `1h30m`.
- `nnbox --install-completion` makes the shell (bash, zsh, fish) complete commands, options, and the names of data sets,
  challenges, configurations, variants and profiles; `nnbox --show-completion` prints what it would install.
"""


def commands(root: Any) -> Iterator[tuple[str, Any]]:
    """All that can be run, by what is typed after ``nnbox``, in the order of the help; hidden ones are left out."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", None)
        if words and (children is None or command.invoke_without_command):
            yield " ".join(words), command
        for name, child in (children or {}).items():
            if not child.hidden:
                yield from walk(child, (*words, name))

    return walk(root, ())


def examples(command: Any) -> list[str]:
    """The ``nnbox`` lines that the command's help gives as examples."""
    return EXAMPLE.findall(_text(command))


def exit_codes(name: str) -> tuple[int, ...]:
    """What the command may end with."""
    return tuple(sorted({*EVERY_COMMANDS, *FURTHER_CODES.get(name, ())}))


def page(root: Any) -> str:
    """The page as Markdown, of the root of all commands (``typer.main.get_command``)."""
    listed = list(commands(root))
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    links = ((name, name.replace(" ", "-"), _first(command)) for name, command in listed)
    index = "\n".join(f"- [`nnbox {name}`](#nnbox-{anchor}): {text}" for name, anchor, text in links)
    parts = [HEAD, f"| Exit code | |\n|---|---|\n{codes}\n", f"{index}\n"]
    return "\n".join(parts + [_section(name, command) for name, command in listed])


def _text(command: Any) -> str:
    """The docstring; a group that also runs alone has it at its callback."""
    return inspect.cleandoc(command.callback.__doc__ or "") if command.callback is not None else ""


def _first(command: Any) -> str:
    return re.split(r"(?<=\.)\s", " ".join(_text(command).split()), maxsplit=1)[0]


def _section(name: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    required = [parameter for parameter in options if parameter.required]
    words = [f"nnbox {name}", *(f"{parameter.opts[0]} {_value(parameter)}" for parameter in required)]
    words += [_argument(parameter) for parameter in arguments]
    words += ["[OPTIONS]"] if len(options) > len(required) else []
    text = re.sub(r"[ \n]*Example: +nnbox [^\n]+", "", _text(command)).strip()
    lines = [f"## nnbox {name}", "", "```text", " ".join(words), "```", "", text, ""]
    if arguments:
        lines += ["| Argument | |", "|---|---|"]
        lines += [f"| `{_argument(parameter)}` | {_cell(parameter.help)} |" for parameter in arguments] + [""]
    if options:
        lines += ["| Option | Default | |", "|---|---|---|"]
        lines += [f"| {_names(option)} | {_default(option)} | {_cell(option.help)} |" for option in options] + [""]
    lines += ["```", *examples(command), "```", ""]
    lines += [f"Exit codes: {', '.join(map(str, exit_codes(name)))}.", ""]
    return "\n".join(lines)


def _value(parameter: Any) -> str:
    """What stands for an option's value: its metavar, the choices of an enumeration, or its name."""
    if parameter.metavar:
        return str(parameter.metavar)
    return str(max(parameter.opts, key=len).lstrip("-").upper())


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    name += "..." if parameter.nargs != 1 and not name.endswith("...") else ""
    return name if parameter.required else f"[{name}]"


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {_value(option)}"
    named = [f"`{name}{value}`" for name in sorted(option.opts, key=len, reverse=True)]
    return ", ".join([*named, *(f"`{name}`" for name in option.secondary_opts)])


def _default(option: Any) -> str:
    default = option.default
    if isinstance(default, Enum):
        return f"`{default.value}` of {', '.join(f'`{choice.value}`' for choice in type(default))}"
    if option.required:
        return "required"
    if option.is_flag and option.secondary_opts and default is not None:
        return f"`{option.opts[0] if default else option.secondary_opts[0]}`"
    if default is None or option.is_flag:
        return ""
    return f"`{default}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    """Write the page to the file that is named."""
    from nnunet_box.cli.app import app
    from nnunet_box.files import write_text

    write_text(Path(sys.argv[1]), page(typer.main.get_command(app)))


if __name__ == "__main__":
    main()
