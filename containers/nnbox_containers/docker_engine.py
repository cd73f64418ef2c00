"""Docker, and Podman through ``DOCKER_HOST``, by the Docker SDK for Python."""

from __future__ import annotations

import gzip
import time
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from nnbox_containers.archive_file import pieces, writer
from nnbox_containers.build_lines import as_docker_says, failure, pulling
from nnbox_containers.context import BuildContext
from nnbox_containers.docker_connection import (
    CONNECT_SECONDS,
    PATIENT_SECONDS,
    EngineFacts,
    advised,
    broken,
    connect,
    connected,
    engine_facts,
    is_local,
    missing,
    translated,
)
from nnbox_containers.docker_run import (
    MemoryWatch,
    host_options,
    memory_group,
    require_limits,
    require_sources,
    sigterm_as_exit,
)
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
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.files import write_beside

# What Grand Challenge leaves a container between SIGTERM and SIGKILL.
GRACE_SECONDS = 5
TAIL_LINES = 8
SAVE_CHUNK_BYTES = 2 << 20
# Podman puts one of these before a name without a registry; to Docker, and to a person, they are the same name.
IMPLIED_REGISTRIES = ("docker.io/library/", "docker.io/", "localhost/")
TAR_END = bytes(1024)


class DockerEngine:
    """A ``ContainerEngine`` that asks a daemon; connects at the first verb, not when it is made."""

    @cached_property
    def _api(self) -> Any:
        return connect()

    @cached_property
    def facts(self) -> EngineFacts:
        """Which engine answers, and what it can; raises ``EngineUnavailable``."""
        return engine_facts(self._api)

    def build(self, context: BuildContext, tag: str, listen: LineListener) -> str:
        import docker
        import requests
        import urllib3

        last_step, tail, identifier = "before the first step", deque[str](maxlen=TAIL_LINES), ""
        megabytes = context.size_bytes / 1e6
        try:
            events = self._api.build(
                fileobj=context.chunks(lambda sent: listen(f"Sending {sent / 1e6:.0f} of {megabytes:.0f} MB")),
                custom_context=True,
                tag=tag,
                rm=True,
                forcerm=True,
                # Podman takes "none" for a network it does not know here, and builds with the machine's own instead.
                network_mode="NetworkDisabled" if self.facts.is_podman else "none",
                decode=True,
            )
            for event in events:
                if "error" in event:
                    raise BuildFailed(failure(tag, last_step, event["error"], tail))
                identifier = (event.get("aux") or {}).get("ID", identifier)
                for line in str(event.get("stream") or pulling(event)).splitlines():
                    if line := as_docker_says(line.strip()):
                        last_step = line if line.startswith("Step ") else last_step
                        tail.append(line)
                        listen(line)
        except docker.errors.APIError as error:
            raise BuildFailed(failure(tag, last_step, str(error.explanation or error), tail)) from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise BuildFailed(failure(tag, last_step, str(broken("build", error)), tail)) from error
        if not identifier:
            # An engine that is stopped may end its answer as if all were said; the tag may be of an earlier build.
            reason = "the engine ended its answer before the image was there; see that it runs (docker info)"
            raise BuildFailed(failure(tag, last_step, reason, tail))
        return identifier

    def inspect(self, image: str) -> ImageFacts:
        with translated(image):
            facts = self._api.inspect_image(image)
        config = facts.get("Config") or {}
        return ImageFacts(
            identifier=facts["Id"],
            tags=tuple(_plain_name(name) for name in facts.get("RepoTags") or ()),
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
        self._fetch_if_missing(image, platform)
        self._require_platform(image, platform)
        if is_local(self._api):
            require_sources(mounts)
        require_limits(limits, self.facts)
        options = host_options(mounts, limits, self.facts.is_podman, self.facts.selinux)
        # A name of our own: whatever is interrupted, also the answer to its creation, the container can be removed.
        name = f"nnbox-{uuid.uuid4().hex[:12]}"
        with sigterm_as_exit():
            try:
                with translated(image):
                    container = self._api.create_container(
                        image,
                        name=name,
                        command=list(command) or None,
                        entrypoint=list(entrypoint) if entrypoint is not None else None,
                        user=limits.user,
                        host_config=self._api.create_host_config(**options),
                        platform=platform,
                    )["Id"]
                    return self._run_to_its_end(image, container, limits.seconds)
            finally:
                # Also on an interrupt: a container that goes on after its caller is gone would hold the machine.
                with suppress(Exception):
                    self._api.remove_container(name, force=True, v=True)

    def save(self, image: str, archive: Path, listen: SavedListener | None = None) -> None:
        expected, received, end = self.inspect(image).size_bytes, 0, b""
        with write_beside(archive) as temporary, writer(temporary) as file:
            for chunk in self._exported(image):
                file.write(chunk)
                received += len(chunk)
                end = (end + chunk)[-len(TAR_END) :]
                if listen is not None:
                    listen(received, max(expected, received))
            if end != TAR_END:
                megabytes = f"{received / 1e6:.0f} MB"
                raise NnboxError(f"{image}: the engine ended the archive after {megabytes}: see its log and try again.")

    def load(self, archive: Path) -> str:
        import docker

        names, problem = [], ""
        expected, fix = "an image archive as docker save writes it, with one image", "Build and save the image again."
        if not archive.is_file():
            raise InvalidData(archive, expected, "no such file", "Correct the path.")
        try:
            with connected(str(archive)):
                for event in self._api.load_image(pieces(archive)):
                    problem = event.get("error", problem)
                    for line in str(event.get("stream", "")).splitlines():
                        if line.startswith(("Loaded image: ", "Loaded image ID: ")):
                            names.append(_plain_name(line.split(": ", 1)[1].strip()))
        except docker.errors.APIError as error:
            problem = str(error.explanation or error)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            problem = f"damaged compression ({error})"
        if "no space left" in problem:
            raise NnboxError(f"{archive}: not loaded: {advised(problem)}")
        if problem or len(names) != 1:
            raise InvalidData(archive, expected, advised(problem) if problem else f"{len(names)} images", fix)
        return names[0]

    def remove(self, image: str) -> None:
        with translated(image):
            self._api.remove_image(image)

    def _run_to_its_end(self, image: str, container: str, seconds: float | None) -> RunResult:
        started = time.monotonic()
        self._start(image, container)
        told = "memory" not in self.facts.missing_limits
        with MemoryWatch(container, self._group(container), told) as memory:
            exit_code, timed_out = self._wait(container, seconds)
        lasted = time.monotonic() - started
        state = self._api.inspect_container(container)["State"]
        stdout, stderr = (
            self._api.logs(container, stdout=out, stderr=not out).decode("utf-8", "replace") for out in (True, False)
        )
        if exit_code != 0 and "exec format error" in stderr:
            raise StartFailed(f"{image}: the container could not start: {advised(stderr)}")
        killed = bool(state.get("OOMKilled")) or memory.killed
        return RunResult(exit_code, stdout, stderr, timed_out, lasted, memory.peak_bytes, killed)

    def _start(self, image: str, container: str) -> None:
        import docker

        try:
            self._api.start(container)
        except docker.errors.APIError as error:
            reason = advised(str(error.explanation or error))
            raise StartFailed(f"{image}: the container could not start: {reason}") from error

    def _group(self, container: str) -> Path | None:
        if not is_local(self._api):
            return None
        return memory_group(self._api.inspect_container(container)["State"], container)

    def _wait(self, container: str, seconds: float | None) -> tuple[int, bool]:
        """Wait for the end; return the exit code, and whether the container was stopped for its time."""
        import docker
        import requests

        began = time.monotonic()
        try:
            return int(self._api.wait(container, timeout=seconds or PATIENT_SECONDS * 24)["StatusCode"]), False
        except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
            # The SDK has one error for an answer that does not come in time and for an engine that is gone.
            if seconds is None or time.monotonic() - began < seconds:
                raise
        for signal, patience in (("SIGTERM", GRACE_SECONDS), ("SIGKILL", CONNECT_SECONDS)):
            with suppress(docker.errors.APIError):  # it may have ended by itself meanwhile
                self._api.kill(container, signal)
            with suppress(requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
                return int(self._api.wait(container, timeout=patience)["StatusCode"]), True
        raise NnboxError(f"Container {container[:12]} does not end, even killed: see docker ps and the engine's log.")

    def _exported(self, image: str) -> Iterator[bytes]:
        # Asked for by name, the archive keeps the name; asked for by identifier it would lose it. Only the engine's
        # side is translated: a full disk here is no broken connection.
        with translated(image):
            chunks = iter(self._api.get_image(image, chunk_size=SAVE_CHUNK_BYTES))
        while True:
            with translated(image):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def _require_platform(self, image: str, platform: str | None) -> None:
        # Docker would refuse another architecture; Podman starts the image all the same.
        found = self.inspect(image).architecture
        if platform is not None and found != platform.split("/")[1]:
            raise NnboxError(
                f"{image} is for the architecture {found}, not for {platform}: build it on, or for, that platform."
            )

    def _fetch_if_missing(self, image: str, platform: str | None) -> None:
        import docker

        try:
            self.inspect(image)
            return
        except ImageMissing:
            pass
        name = image if ":" in image.rsplit("/", 1)[-1] or "@" in image else f"{image}:latest"
        try:
            with connected(image):
                for event in self._api.pull(name, stream=True, decode=True, platform=platform):
                    if "error" in event:
                        raise ImageMissing(missing(image, event["error"]))
        except docker.errors.APIError as error:
            raise ImageMissing(missing(image, str(error.explanation or error))) from error


def _plain_name(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in IMPLIED_REGISTRIES if name.startswith(prefix)), name)
