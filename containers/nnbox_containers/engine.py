"""The seam to a container engine: what nnbox asks of one, and the values that pass through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nnbox_containers.context import BuildContext
from nnunet_box.errors import NnboxError

LineListener = Callable[[str], None]


class BuildFailed(NnboxError):
    """The engine could not build the image."""


class ImageMissing(NnboxError):
    """No image of that name is on this machine, and none could be fetched."""


class StartFailed(NnboxError):
    """The engine has the image and could not start its command."""


@dataclass(frozen=True)
class Mount:
    """A folder of this machine as the container sees it."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class RunLimits:
    """What a container may do. The defaults are ``docker run``'s but for the network: a submission never gets one.

    tmpfs: paths that are scratch memory. shm_bytes, memory_bytes: sizes in bytes. user: ``"uid:gid"``.
    seconds: wall time after which the container is stopped.
    """

    network: str = "none"
    read_only: bool = False
    tmpfs: tuple[str, ...] = ()
    drop_capabilities: bool = False
    no_new_privileges: bool = False
    pids: int | None = None
    shm_bytes: int | None = None
    memory_bytes: int | None = None
    user: str | None = None
    seconds: float | None = None

    def arguments(self) -> list[str]:
        """The same limits as options of ``docker run``."""
        options = ["--network", self.network]
        options += ["--read-only"] if self.read_only else []
        for path in self.tmpfs:
            options += ["--tmpfs", path]
        options += ["--cap-drop", "ALL"] if self.drop_capabilities else []
        options += ["--security-opt", "no-new-privileges"] if self.no_new_privileges else []
        options += ["--pids-limit", str(self.pids)] if self.pids is not None else []
        options += ["--shm-size", _size(self.shm_bytes)] if self.shm_bytes is not None else []
        options += ["--memory", _size(self.memory_bytes)] if self.memory_bytes is not None else []
        options += ["--user", self.user] if self.user is not None else []
        return options


DEFAULT_LIMITS = RunLimits()


def _size(size_bytes: int) -> str:
    mebibytes, rest = divmod(size_bytes, 1 << 20)
    return f"{size_bytes}b" if rest else f"{mebibytes}m"


@dataclass(frozen=True)
class ImageFacts:
    """What an engine knows of an image. identifier: ``sha256:`` and the digest of its configuration."""

    identifier: str
    tags: tuple[str, ...]
    size_bytes: int
    user: str
    architecture: str
    entrypoint: tuple[str, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class RunResult:
    """How a container ended. timed_out: it was stopped because its time was over."""

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool = False


class ContainerEngine(Protocol):
    """A container engine. Every verb raises ``EngineUnavailable`` (exit code 4) where no engine answers."""

    def build(self, context: BuildContext, tag: str, listen: LineListener) -> str:
        """Build ``context``, tag the image, tell ``listen`` each line as it comes; return the image's identifier.

        The build gets no network. Raises ``BuildFailed`` with the failing step and its last output.
        """

    def inspect(self, image: str) -> ImageFacts:
        """Facts of an image on this machine; raises ``ImageMissing``."""

    def run(
        self,
        image: str,
        command: Sequence[str] = (),
        mounts: Sequence[Mount] = (),
        limits: RunLimits = DEFAULT_LIMITS,
        entrypoint: Sequence[str] | None = None,
    ) -> RunResult:
        """Run a container to its end and remove it. An image that is not here is fetched first.

        Raises ``ImageMissing`` where that fails, ``StartFailed`` where the command cannot be started at all.
        """

    def save(self, image: str, archive: Path) -> None:
        """Write the image with its name to a ``docker load``-able archive, whole or not at all."""

    def load(self, archive: Path) -> str:
        """Load an archive; return its image's name. Raises ``InvalidData`` where it is no archive with one image."""

    def remove(self, image: str) -> None:
        """Delete an image of this machine; raises ``ImageMissing``."""
