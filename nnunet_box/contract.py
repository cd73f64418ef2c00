"""``profile.json``: what a submission image knows of its organiser. Written when it is built, read when it runs."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json

CONTRACT_FILE = "profile.json"

Layout = Literal["folder", "sockets", "case-folders", "files"]
"""What lies at ``input``: a challenge's own test folder or a plain folder of cases; Grand Challenge's ``inputs.json``
and ``images/<slug>/``; a folder for each case; files named on the command line."""

Entry = Literal["exec", "http", "script", "command"]
"""How the organiser starts it: the image's own entry point; a server asked over HTTP; a script in the working folder; a
program named on a command line."""

_SLUG = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")


def slug(text: str) -> str:
    """A socket's or channel's name as the file system sees it, given that it is one.

    Raises
    ------
    ValueError: letters and digits, parted by - or _, are all that a name has; a path could lead elsewhere.
    """
    if not _SLUG.fullmatch(text):
        raise ValueError(f"{text!r} is no slug: letters and digits, parted by - or _")
    return text


def inside_path(text: str) -> str:
    """An absolute path inside an image, safe to stand in a Dockerfile.

    Raises
    ------
    ValueError: it is relative, climbs with ``..`` or holds anything but letters, digits, ``.``, ``_`` and ``-``.
    """
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", text) or ".." in PurePosixPath(text).parts:
        raise ValueError(f"{text!r} is no absolute path of letters, digits, . _ and -")
    return text


Slug = Annotated[str, AfterValidator(slug)]
InsidePath = Annotated[str, AfterValidator(inside_path)]


class Contract(BaseModel):
    """What the program in an image has to know.

    profile: the contract's name. challenge: whose adapter reads and writes; None where the layout decides alone.
    bundle: the model inside the image; model: where one may be mounted, which then comes first. channels: for each of
    the network's channels, in order, the slug of its socket (``sockets``) or the ending of its file names
    (``case-folders``). output_socket: slug of the socket that takes the label map. port: of the HTTP server. threads:
    how many processors are used unless the caller says otherwise; None for all. record: whether ``run.json`` is
    written beside the predictions; else its content is one line of the log. silent_stderr: messages and progress go to
    stdout, so that stderr stays empty unless something failed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    profile: str
    challenge: str | None
    layout: Layout
    entry: Entry
    input: InsidePath
    output: InsidePath
    bundle: InsidePath
    model: InsidePath | None = None
    channels: tuple[Slug, ...] = ()
    output_socket: Slug | None = None
    port: int | None = None
    threads: int | None = None
    record: bool = True
    silent_stderr: bool = False


def read_contract(file: Path) -> Contract:
    """Read ``profile.json``.

    Raises
    ------
    InvalidData: missing, of another schema version, or not as ``Contract`` says.
    """
    try:
        return Contract.model_validate(read_json(file, schema_version=1))
    except ValidationError as error:
        raise InvalidData(
            file,
            "a profile as nnbox build-submission image writes it",
            str(error),
            "Build the image again: nnbox build-submission image.",
        ) from error
