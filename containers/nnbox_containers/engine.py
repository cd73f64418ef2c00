"""The seam to a container engine: what nnbox asks of one, and the values that pass through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nnbox_containers.context import BuildContext
from nnunet_box.errors import NnboxError

LineListener = Callable[[str], None]
SavedListener = Callable[[int, int], None]
"""Told, while an image is saved, how many bytes came and how many are expected in all (the image's size, about)."""


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

    tmpfs: paths that are scratch memory. shm_bytes, memory_bytes: sizes in bytes; swap is never added to
    memory_bytes, as an organiser's machine may have none. user: ``"uid:gid"``. ulimits: by the kernel's names
    (``nofile``), soft and hard alike. cpus: cores' worth of time, ``1.5`` for one and a half. init: a small first
    process that passes signals on and reaps. seconds: wall time after which the container is told to stop, and killed
    a few seconds later.
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
    ulimits: Mapping[str, int] = field(default_factory=dict)
    cpus: float | None = None
    init: bool = False

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
        if self.memory_bytes is not None:
            options += ["--memory", _size(self.memory_bytes), "--memory-swap", _size(self.memory_bytes)]
        options += ["--cpus", f"{self.cpus:g}"] if self.cpus is not None else []
        for name, value in sorted(self.ulimits.items()):
            options += ["--ulimit", f"{name}={value}:{value}"]
        options += ["--init"] if self.init else []
        options += ["--user", self.user] if self.user is not None else []
        return options


DEFAULT_LIMITS = RunLimits()


def _size(size_bytes: int) -> str:
    mebibytes, rest = divmod(size_bytes, 1 << 20)
    return f"{size_bytes}b" if rest else f"{mebibytes}m"


@dataclass(frozen=True)
class ImageFacts:
    """What an engine knows of an image.

    identifier: ``sha256:`` and the digest of its configuration. size_bytes: unpacked, all layers. layers: digests of
    the unpacked layers, the lowest first. exposed_ports: as ``"4743/tcp"``. created: RFC 3339 time, empty where
    unknown.
    """

    identifier: str
    tags: tuple[str, ...]
    size_bytes: int
    user: str
    architecture: str
    entrypoint: tuple[str, ...]
    labels: Mapping[str, str]
    command: tuple[str, ...] = ()
    working_directory: str = ""
    exposed_ports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    created: str = ""


@dataclass(frozen=True)
class RunResult:
    """How a container ended.

    timed_out: it was stopped because its time was over. seconds: wall time from start to end. peak_memory_bytes: the
    most its control group held, file cache included, which is what ``--memory`` limits; None where the engine gave no
    number. killed_for_memory: the kernel ended a process of it for want of memory.
    """

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool = False
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    killed_for_memory: bool = False


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
        platform: str | None = None,
    ) -> RunResult:
        """Run a container to its end and remove it, also on an interrupt. An image that is not here is fetched first.

        platform: such as ``"linux/amd64"``; the engine refuses an image of another.

        Raises ``ImageMissing`` where that fails, ``StartFailed`` where the command cannot be started at all.
        """

    def save(self, image: str, archive: Path, listen: SavedListener | None = None) -> None:
        """Write the image with its name to a ``docker load``-able archive, whole or not at all.

        A name that ends in ``.gz`` is compressed, without a time inside: the same image gives the same file.

        Raises ``ImageMissing``; ``NnboxError`` where the disk is full or the connection breaks.
        """

    def load(self, archive: Path) -> str:
        """Load an archive; return its image's name. Raises ``InvalidData`` where it is no archive with one image."""

    def remove(self, image: str) -> None:
        """Delete an image of this machine; raises ``ImageMissing``."""
