"""What an organiser's contract consists of: the facts that decide how an image is built, run, checked and described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nnbox_containers.engine import Mount, RunLimits
from nnunet_box.contract import Entry, InsidePath, Layout, Slug


@dataclass(frozen=True)
class Profile:
    """One organiser's contract.

    input, output: where the container sees the test data and leaves its files; the same where one folder is both.
    layout, entry: see ``nnunet_box.contract``. cases: ``"folder"`` when one start gets the whole test folder,
    ``"case"`` when it gets one case. model: where weights are mounted apart from the image; None where the image holds
    them. output_suffixes: endings of the label maps that are taken; empty where the challenge decides. user: the
    image's ``uid:gid``, never root. working_directory: the image's. entrypoint, command: what the organiser puts in
    place of the image's entry point and after the image's name. port: where an HTTP server is asked. channel_suffixes:
    endings that file names of a case's channels have, in the organiser's order. limits: how the organiser starts the
    container. strictest: all the limits the image promises to work under, which the checks before an upload apply.
    gpus: what the organiser gives to ``--gpus``; None where there is none. threads: processors used by default; None
    for all. labels: labels of the image that the organiser reads. most_bytes: size of the largest archive that is
    taken; None where no limit is published. forbidden_tags: versions an image may not carry. descriptor: a file about
    the image that is handed in with it. record: whether ``run.json`` may lie in the output. silent_stderr: whatever is
    written there is shown as a warning. reference: where these facts are from.
    """

    name: str
    title: str
    input: InsidePath
    output: InsidePath
    layout: Layout
    entry: Entry
    cases: Literal["folder", "case"]
    limits: RunLimits
    strictest: RunLimits
    reference: str
    model: InsidePath | None = None
    output_suffixes: tuple[str, ...] = ()
    user: str = "1000:1000"
    working_directory: InsidePath = "/tmp"  # noqa: S108 - inside the container
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] = ()
    port: int | None = None
    channel_suffixes: tuple[Slug, ...] = ()
    gpus: str | None = None
    threads: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    most_bytes: int | None = None
    forbidden_tags: tuple[str, ...] = ()
    descriptor: Literal["boutiques"] | None = None
    record: bool = False
    silent_stderr: bool = False

    def run_line(self, image: str, cuda: bool = False) -> str:
        """The command an organiser runs, with TEST_FOLDER and OUT to be filled in (absolute paths).

        cuda: whether the image computes on a GPU, so that it is given what the organiser has.
        """
        words = ["docker run --rm", *self.limits.arguments()]
        words += ["--gpus", _shell(self.gpus)] if cuda and self.gpus is not None else []
        words += [f"--entrypoint={self.entrypoint[0]}"] if self.entrypoint is not None else []
        if self.input == self.output:
            words += ["-v OUT:OUT -w OUT"]
        else:
            words += [f"-v TEST_FOLDER:{self.input}:ro", f"-v OUT:{self.output}"]
        words += [image, *(self.entrypoint or ())[1:], *map(_shell, self.command)]
        return " ".join(words)

    def mounts(self, test_folder: Mount, output: Mount) -> tuple[Mount, ...]:
        """What is mounted: both folders, or, where one is both, the output alone."""
        return (output,) if self.input == self.output else (test_folder, output)


def _shell(word: str) -> str:
    return f'"{word}"' if " " in word or "=" in word else word
