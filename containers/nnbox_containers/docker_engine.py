"""Docker, and what speaks its API, through the Docker SDK for Python."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnbox_containers.archive_file import writer
from nnbox_containers.context import BuildContext
from nnbox_containers.engine import (
    DEFAULT_LIMITS,
    BuildFailed,
    ImageFacts,
    ImageMissing,
    LineListener,
    Mount,
    RunLimits,
    RunResult,
    SavedListener,
    StartFailed,
)
from nnunet_box.errors import EngineUnavailable, InvalidData, NnboxError
from nnunet_box.files import write_beside

DEFAULT_SOCKET = Path("/var/run/docker.sock")
CONNECT_SECONDS = 10
# A build step that installs torch, and the export of a large image, say nothing for minutes.
PATIENT_SECONDS = 3600
TAIL_LINES = 8
SAVE_CHUNK_BYTES = 2 << 20


class DockerEngine:
    """A ``ContainerEngine`` that asks the Docker daemon; connects at the first verb, not when it is made."""

    def __init__(self) -> None:
        self._connected: Any = None

    @property
    def _api(self) -> Any:
        if self._connected is None:
            self._connected = _connect()
        return self._connected

    def build(self, context: BuildContext, tag: str, listen: LineListener) -> str:
        import docker
        import requests

        last_step, tail = "before the first step", deque[str](maxlen=TAIL_LINES)
        megabytes = context.size_bytes / 1e6
        try:
            events = self._api.build(
                fileobj=context.chunks(lambda sent: listen(f"Sending {sent / 1e6:.0f} of {megabytes:.0f} MB")),
                custom_context=True,
                tag=tag,
                rm=True,
                forcerm=True,
                network_mode="none",
                decode=True,
            )
            for event in events:
                if "error" in event:
                    raise BuildFailed(_failure(tag, last_step, event["error"], tail))
                for line in str(event.get("stream") or _pulling(event)).splitlines():
                    if line := line.strip():
                        last_step = line if line.startswith("Step ") else last_step
                        tail.append(line)
                        listen(line)
        except docker.errors.APIError as error:
            raise BuildFailed(_failure(tag, last_step, error.explanation or str(error), tail)) from error
        except (requests.exceptions.RequestException, OSError) as error:
            reason = f"the connection to the engine broke ({error})"
            raise BuildFailed(_failure(tag, last_step, reason, tail)) from error
        return self.inspect(tag).identifier

    def inspect(self, image: str) -> ImageFacts:
        with _translated(image):
            facts = self._api.inspect_image(image)
        config = facts["Config"]
        return ImageFacts(
            identifier=facts["Id"],
            tags=tuple(facts["RepoTags"] or ()),
            size_bytes=facts["Size"],
            user=config.get("User") or "",
            architecture=facts["Architecture"],
            entrypoint=tuple(config.get("Entrypoint") or ()),
            labels=dict(config.get("Labels") or {}),
            command=tuple(config.get("Cmd") or ()),
            working_directory=config.get("WorkingDir") or "",
            exposed_ports=tuple(sorted(config.get("ExposedPorts") or ())),
            environment=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
            layers=tuple((facts.get("RootFS") or {}).get("Layers") or ()),
            created=facts.get("Created") or "",
        )

    def run(
        self,
        image: str,
        command: Sequence[str] = (),
        mounts: Sequence[Mount] = (),
        limits: RunLimits = DEFAULT_LIMITS,
        entrypoint: Sequence[str] | None = None,
        platform: str | None = None,
    ) -> RunResult:
        import requests

        self._fetch_if_missing(image)
        host_config = self._api.create_host_config(**_host_options(mounts, limits))
        with _translated(image):
            container = self._api.create_container(
                image,
                command=list(command) or None,
                entrypoint=list(entrypoint) if entrypoint is not None else None,
                user=limits.user,
                host_config=host_config,
                platform=platform,
            )["Id"]
        try:
            with _translated(image):
                self._start(image, container)
                timed_out = False
                try:
                    exit_code = self._api.wait(container, timeout=limits.seconds or PATIENT_SECONDS * 24)["StatusCode"]
                except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
                    timed_out = True
                    self._api.kill(container)
                    exit_code = self._api.wait(container, timeout=CONNECT_SECONDS)["StatusCode"]
                stdout, stderr = (self._api.logs(container, stdout=out, stderr=not out) for out in (True, False))
            return RunResult(exit_code, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"), timed_out)
        finally:
            # Also on an interrupt: a container that goes on after its caller is gone would hold the machine.
            with suppress(Exception):
                self._api.remove_container(container, force=True, v=True)

    def save(self, image: str, archive: Path, listen: SavedListener | None = None) -> None:
        expected, received = self.inspect(image).size_bytes, 0
        with _translated(image), write_beside(archive) as temporary, writer(temporary) as file:
            # Asked for by name, the archive keeps the name; asked for by identifier it would lose it.
            for chunk in self._api.get_image(image, chunk_size=SAVE_CHUNK_BYTES):
                file.write(chunk)
                received += len(chunk)
                if listen is not None:
                    listen(received, expected)

    def load(self, archive: Path) -> str:
        names, problem = [], ""
        with _translated(str(archive)), archive.open("rb") as file:
            for event in self._api.load_image(file):
                problem = event.get("error", problem)
                for line in str(event.get("stream", "")).splitlines():
                    if line.startswith(("Loaded image: ", "Loaded image ID: ")):
                        names.append(line.split(": ", 1)[1].strip())
        if problem or len(names) != 1:
            raise InvalidData(
                archive,
                "an image archive as docker save writes it, with one image",
                problem or f"{len(names)} images",
                "Build and save the image again.",
            )
        return names[0]

    def remove(self, image: str) -> None:
        with _translated(image):
            self._api.remove_image(image)

    def _start(self, image: str, container: str) -> None:
        import docker

        try:
            self._api.start(container)
        except docker.errors.APIError as error:
            raise StartFailed(f"{image}: the container could not start: {error.explanation or error}") from error

    def _fetch_if_missing(self, image: str) -> None:
        import docker

        try:
            self._api.inspect_image(image)
            return
        except docker.errors.ImageNotFound:
            pass
        name = image if ":" in image.rsplit("/", 1)[-1] or "@" in image else f"{image}:latest"
        try:
            for event in self._api.pull(name, stream=True, decode=True):
                if "error" in event:
                    raise ImageMissing(_missing(image, event["error"]))
        except docker.errors.APIError as error:
            raise ImageMissing(_missing(image, error.explanation or str(error))) from error


def _connect() -> Any:
    import docker

    try:
        client = docker.from_env(timeout=CONNECT_SECONDS)
    except docker.errors.DockerException as error:
        raise EngineUnavailable(_why_unavailable(error)) from error
    client.api.timeout = PATIENT_SECONDS
    return client.api


def _why_unavailable(error: Exception) -> str:
    """One line: which engine did not answer, and what to start."""
    host = os.environ.get("DOCKER_HOST", "")
    if host and not host.startswith("unix://"):
        return f"No container engine answers at DOCKER_HOST={host}: start it there, or unset DOCKER_HOST."
    socket = Path(host.removeprefix("unix://")) if host else DEFAULT_SOCKET
    where = f"DOCKER_HOST={host}" if host else str(socket)
    if socket.exists() and not os.access(socket, os.R_OK | os.W_OK):
        return (
            f"No permission on the container engine's socket {socket}: "
            "sudo usermod -aG docker $USER, then log in again (or run the command with sudo)."
        )
    if not host and shutil.which("docker") is None and shutil.which("dockerd") is None:
        return "No container engine is installed: install Docker (Debian, Ubuntu: sudo apt-get install docker.io)."
    if host:
        return (
            f"No container engine answers at {where}: start it (sudo systemctl start docker; "
            "podman: systemctl --user start podman.socket), or unset DOCKER_HOST."
        )
    if socket.exists():
        return f"The container engine at {where} does not answer ({_cause(error)}): sudo systemctl restart docker"
    return "The container engine is not running: sudo systemctl start docker (without systemd, as root: dockerd &)."


def _cause(error: Exception) -> str:
    return str(error).removeprefix("Error while fetching server API version: ").splitlines()[0]


@contextmanager
def _translated(image: str) -> Iterator[None]:
    """Turn the SDK's errors into ours, once, here."""
    import docker
    import requests

    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise ImageMissing(_missing(image, "no such image")) from error
    except docker.errors.APIError as error:
        raise NnboxError(f"{image}: the container engine refused: {error.explanation or error}") from error
    except requests.exceptions.RequestException as error:
        raise EngineUnavailable(f"{image}: the connection to the container engine broke: {error}") from error


def _missing(image: str, reason: str) -> str:
    return f"Image {image} is not on this machine ({reason.strip()}); docker images lists those that are."


def _failure(tag: str, step: str, reason: str, tail: Sequence[str]) -> str:
    output = "".join(f"\n    {line}" for line in tail if not line.startswith(("Step ", "--->")))
    return f"{tag}: the build failed at {step!r}: {reason.strip()}{output}"


def _pulling(event: dict[str, Any]) -> str:
    """A line for the events of a base image that is fetched: without the counters, which change many times a second."""
    return f"{event['status']} {event.get('id', '')}" if "status" in event and not event.get("progressDetail") else ""


def _host_options(mounts: Sequence[Mount], limits: RunLimits) -> dict[str, Any]:
    options: dict[str, Any] = {
        "binds": [f"{mount.source.resolve()}:{mount.target}:{'ro' if mount.read_only else 'rw'}" for mount in mounts],
        "network_mode": limits.network,
        "read_only": limits.read_only,
        "tmpfs": {path: "" for path in limits.tmpfs} or None,
        "cap_drop": ["ALL"] if limits.drop_capabilities else None,
        "security_opt": ["no-new-privileges"] if limits.no_new_privileges else None,
        "pids_limit": limits.pids,
        "shm_size": limits.shm_bytes,
        "ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in sorted(limits.ulimits.items())],
        "nano_cpus": round(limits.cpus * 1e9) if limits.cpus is not None else None,
        "init": limits.init or None,
    }
    if limits.memory_bytes is not None:
        # Swap would let a container pass here that an organiser without swap kills.
        options |= {"mem_limit": limits.memory_bytes, "memswap_limit": limits.memory_bytes}
    return options
