"""Submission profiles: the facts of an organiser's contract that decide how an image is built, run and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nnbox_containers.engine import RunLimits
from nnunet_box.errors import UsageError

Layout = Literal["folder", "sockets", "case-folders", "files"]
"""What lies at ``input``: a challenge's own test folder or a plain folder of cases; Grand Challenge's ``inputs.json`` and
``images/<slug>/``; a folder for each case; files named on the command line."""

Entry = Literal["exec", "http", "script", "command"]
"""How the organiser starts it: the image's own entry point; a server asked over HTTP; a script in the working folder; a
program named on a command line."""


@dataclass(frozen=True)
class Profile:
    """One organiser's contract.

    input, output: where the container sees the test data and leaves its files. model: where weights are mounted apart from
    the image; None where the image holds them. layout, entry: see there. cases: ``"folder"`` when one start gets the whole
    test folder, ``"case"`` when it gets one case. output_suffixes: endings of the label maps that are taken; empty where the
    challenge decides. user: the image's ``uid:gid``, never root. working_directory: the image's. template: the Dockerfile's
    name among the templates. limits: how the organiser starts the container. strictest: all the limits the image promises to
    work under, which the checks before an upload apply. labels: labels of the image the organiser reads. most_bytes: size of
    the largest archive that is taken; None where no limit is published. silent_stderr: whatever is written there is shown
    as a warning. reference: where these facts are from.
    """

    name: str
    title: str
    input: str
    output: str
    cases: Literal["folder", "case"]
    user: str
    template: str
    limits: RunLimits
    strictest: RunLimits
    layout: Layout = "folder"
    entry: Entry = "exec"
    model: str | None = None
    output_suffixes: tuple[str, ...] = ()
    working_directory: str = "/tmp"  # noqa: S108 - inside the container
    labels: Mapping[str, str] = field(default_factory=dict)
    most_bytes: int | None = None
    silent_stderr: bool = False
    reference: str = ""

    def run_line(self, image: str) -> str:
        """The command an organiser runs, with TEST_FOLDER and OUT to be filled in (absolute paths)."""
        options = " ".join(self.limits.arguments())
        return f"docker run --rm {options} -v TEST_FOLDER:{self.input}:ro -v OUT:{self.output} {image}"


FOLDER = Profile(
    name="folder",
    title="A folder in, a folder out: the challenge's own test layout is read, the leaderboard's files are written",
    input="/input",
    output="/output",
    cases="folder",
    user="1000:1000",
    template="folder.Dockerfile",
    limits=RunLimits(),
    strictest=RunLimits(
        read_only=True,
        tmpfs=("/tmp",),  # noqa: S108 - inside the container
        drop_capabilities=True,
        no_new_privileges=True,
        pids=64,
        shm_bytes=64 << 20,
        user="12345:12345",
    ),
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (FOLDER,)}


def load_profile(name: str) -> Profile:
    """The profile of that name; raises ``UsageError`` with those that are known."""
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(f"No profile {name!r}. Known: {', '.join(PROFILES)}.") from None
