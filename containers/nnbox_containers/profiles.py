"""Submission profiles: the facts of an organiser's contract that decide how an image is built, run and checked."""

from __future__ import annotations

from dataclasses import dataclass

from nnbox_containers.engine import RunLimits
from nnunet_box.errors import UsageError


@dataclass(frozen=True)
class Profile:
    """One organiser's contract.

    input, output: where the container sees the test data and leaves its files. cases: ``"folder"`` when one start gets
    the whole test folder, ``"case"`` when it gets one case. user: the image's ``uid:gid``, never root. template: the
    Dockerfile's name among the templates. limits: how the organiser starts the container. strictest: all the limits the
    image promises to work under, which the checks before an upload apply.
    """

    name: str
    title: str
    input: str
    output: str
    cases: str
    user: str
    template: str
    limits: RunLimits
    strictest: RunLimits

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
