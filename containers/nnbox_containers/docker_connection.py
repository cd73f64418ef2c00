"""Reaching a container engine, and turning what goes wrong there into one line with what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnbox_containers.engine import ImageMissing
from nnunet_box.errors import EngineUnavailable, NnboxError, UsageError

DEFAULT_SOCKET = Path("/var/run/docker.sock")
CONNECT_SECONDS = 10
# A build step that installs torch, and the export of a large image, say nothing for minutes.
PATIENT_SECONDS = 3600
ADDRESS = re.compile(r"(unix:///|tcp://|https?://|ssh://|npipe://).+|fd://.*")

# What engines say, and what helps. The first that matches is added to the engine's own words.
ADVICE = (
    (
        r"no space left on device",
        "The engine's disk is full: docker system df shows what fills it, docker image prune frees old layers.",
    ),
    (
        r"bind source path does not exist|mounts denied|is not shared from|statfs .*no such file",
        "The engine does not see that folder: it runs on another machine, or the folder is not shared with it "
        "(Docker Desktop: Settings, Resources, File sharing).",
    ),
    (
        r"exec format error",
        "The program in the image is for another processor: build the image on, or for, this machine's architecture.",
    ),
    (
        r"client version .* is too (new|old)|minimum supported api version",
        "The engine's version does not fit: install a newer Docker or Podman.",
    ),
    (
        r"container-init binary not found|docker-init.*not found",
        "The engine lacks its small init: apt-get install catatonit (podman) or tini (docker).",
    ),
    (
        r"error setting rlimit",
        "The engine may not raise its limits: set default_ulimits for nofile and nproc in containers.conf.",
    ),
    (
        r"toomanyrequests|rate limit",
        "The registry lets nobody without an account fetch more: docker login, or try again later.",
    ),
    (
        r"no such host|dial tcp|i/o timeout|connection refused|tls handshake|network is unreachable|server misbehaving",
        "No registry can be reached: name an image that is here (--base-image; docker images lists them), or carry one "
        "over with docker save and docker load.",
    ),
    (
        r"unauthorized|access denied|access to the resource is denied|manifest unknown",
        "No registry has it under that name: check the spelling, or docker login.",
    ),
    (
        r"controller .* is not available|cgroup.*permission denied|cannot set .* limit",
        "This engine cannot limit containers: rootless engines need control groups version 2 with delegation.",
    ),
)


@dataclass(frozen=True)
class EngineFacts:
    """What answers. storage: the engine's own folder. missing_limits: kinds of limits it cannot apply."""

    name: str
    version: str
    api_version: str
    architecture: str
    storage: Path | None
    cgroup_version: str
    missing_limits: tuple[str, ...]
    rootless: bool
    selinux: bool

    @property
    def is_podman(self) -> bool:
        return self.name == "podman"


def connect(seconds: float = CONNECT_SECONDS) -> Any:
    """A client of the engine that DOCKER_HOST, the docker context or the default socket names.

    seconds: how long to wait for its first answer; later answers may take an hour.

    Raises
    ------
    EngineUnavailable: nothing answers there, or no engine; says which of the many reasons and what to do.
    """
    import docker
    import requests
    from docker.context import ContextAPI

    host = os.environ.get("DOCKER_HOST", "")
    if host and not ADDRESS.fullmatch(host):
        raise EngineUnavailable(
            f"DOCKER_HOST={host} is not the address of an engine, such as unix:///run/podman/podman.sock, "
            "tcp://HOST:2375 or ssh://USER@HOST: correct it, or unset DOCKER_HOST."
        )
    context = os.environ.get("DOCKER_CONTEXT", "")
    if context and not host and ContextAPI.get_context(context) is None:
        # The SDK would silently take the usual engine instead of the one that was asked for.
        raise EngineUnavailable(f"DOCKER_CONTEXT={context} is no docker context (docker context ls): unset it.")
    try:
        client = docker.from_env(timeout=seconds)
    except (docker.errors.DockerException, requests.exceptions.RequestException, ValueError, OSError) as error:
        raise EngineUnavailable(_why_unavailable(error)) from error
    client.api.timeout = PATIENT_SECONDS
    return client.api


def engine_facts(client: Any) -> EngineFacts:
    """Ask a connected engine what it is.

    Raises
    ------
    EngineUnavailable: the connection broke.
    """
    with translated("engine"):
        version, info = client.version(), client.info()
    components = " ".join(str(part.get("Name", "")) for part in version.get("Components") or ())
    security = " ".join(info.get("SecurityOptions") or ())
    kinds = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "pids", "CpuCfsQuota": "cpus"}
    root, groups = info.get("DockerRootDir"), str(info.get("CgroupVersion") or "1")
    rootless = "rootless" in security or bool(info.get("Rootless"))
    # Without root, control groups of the first version limit nothing, whatever the engine says it can.
    lacking = [what for key, what in kinds.items() if info.get(key) is False or (rootless and groups == "1")]
    return EngineFacts(
        name="podman" if "podman" in components.lower() else "docker",
        version=str(version.get("Version", "unknown")),
        api_version=str(version.get("ApiVersion", "unknown")),
        architecture=f"{version.get('Os', '?')}/{version.get('Arch', '?')}",
        storage=Path(root) if root else None,
        cgroup_version=groups,
        missing_limits=tuple(lacking),
        rootless=rootless,
        selinux="selinux" in security,
    )


def is_local(client: Any) -> bool:
    """Whether the engine runs on this machine, as far as its address says."""
    return str(client.base_url).startswith(("http+docker://", "unix://", "npipe://"))


def _why_unavailable(error: BaseException) -> str:
    """One line: which engine did not answer, why, and what to start."""
    host, where = _address()
    cause, said = _number(error), _said(error)
    if "API versions below" in said or "is too old" in said:
        return f"The container engine at {where} is too old ({said}): install a newer Docker or Podman."
    if "TLS" in said or "certificate" in said.lower():
        return f"The container engine at {where} is not reached with TLS ({said}): DOCKER_TLS_VERIFY, DOCKER_CERT_PATH."
    if "paramiko" in said:
        return f"{where} needs the Python package paramiko: python -m pip install paramiko, or name a socket instead."
    if cause is None and re.search(r"ApiVersion|Expecting value|404|Not Found|BadStatusLine", said):
        return f"What answers at {where} is no container engine ({said}): correct the address, or unset DOCKER_HOST."
    if host and not host.startswith("unix://"):
        return f"No container engine answers at {where} ({said}): start it there, or unset DOCKER_HOST."
    socket = Path(host.removeprefix("unix://")) if host else DEFAULT_SOCKET
    if cause in {errno.EACCES, errno.EPERM}:
        return (
            f"No permission on the container engine's socket {socket}: "
            "sudo usermod -aG docker $USER, then log in again (or run the command with sudo)."
        )
    if not host and shutil.which("docker") is None and shutil.which("dockerd") is None:
        return "No container engine is installed: install Docker (Debian, Ubuntu: sudo apt-get install docker.io)."
    if cause == errno.ECONNREFUSED:
        return f"Nobody listens at {where}, whose socket an engine left behind: {_start(host)}"
    if host:
        return f"No container engine answers at {where} ({said}): {_start(host)}"
    if cause != errno.ENOENT:
        return f"The container engine at {where} does not answer ({said}): sudo systemctl restart docker"
    return f"The container engine is not running: {_start(host)}"


def _start(host: str) -> str:
    if host:
        return (
            "start it (docker: sudo systemctl start docker; podman: systemctl --user start podman.socket), "
            "or unset DOCKER_HOST."
        )
    return "sudo systemctl start docker (without systemd, as root: dockerd &)."


def _address() -> tuple[str, str]:
    """The engine's address, empty for the default, and how to name it to a person."""
    from docker.context import ContextAPI
    from docker.errors import DockerException

    if host := os.environ.get("DOCKER_HOST", ""):
        return host, f"DOCKER_HOST={host}"
    try:
        name = os.environ.get("DOCKER_CONTEXT")
        context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
    except (DockerException, ValueError, OSError):
        context = None
    if context is None or context.name == "default":
        return "", str(DEFAULT_SOCKET)
    return str(context.Host or ""), f"{context.Host} (docker context {context.name}; docker context use default)"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it was made from; libraries keep causes in three different places."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
            waiting += [other for other in inner if isinstance(other, BaseException)]


def _number(error: BaseException) -> int | None:
    return next((one.errno for one in _chain(error) if isinstance(one, OSError) and one.errno), None)


def _said(error: BaseException) -> str:
    """The innermost reason of the system, or else the library's own words in one line."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno and one.strerror:
            return one.strerror
    lines = str(error).removeprefix("Error while fetching server API version: ").strip().splitlines()
    return lines[0] if lines else type(error).__name__


def advised(message: str) -> str:
    """An engine's message in one line, followed by what to do where that is known."""
    text = " ".join(str(message).split())
    advice = next((help_ for pattern, help_ in ADVICE if re.search(pattern, text, re.IGNORECASE)), "")
    return f"{text.rstrip('.')}. {advice}" if advice else text


def missing(image: str, reason: str) -> str:
    """The message for an image that is not here, with the engine's reason."""
    return f"Image {image} is not on this machine ({advised(reason)}); docker images lists those that are."


def broken(what: str, error: BaseException) -> EngineUnavailable:
    """The connection ended in the middle of an answer."""
    return EngineUnavailable(
        f"{what}: the connection to the container engine broke ({_said(error)}): see that it runs (docker info), "
        "then run the same command again."
    )


@contextmanager
def connected(what: str) -> Iterator[None]:
    """Turn a broken connection into ``EngineUnavailable``; what the engine itself refuses stays an ``APIError``."""
    import docker
    import requests
    import urllib3

    try:
        yield
    except docker.errors.APIError:
        raise
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise broken(what, error) from error


@contextmanager
def translated(image: str) -> Iterator[None]:
    """Turn the SDK's errors about ``image`` into ours, once, here."""
    import docker

    try:
        with connected(image):
            yield
    except docker.errors.NotFound as error:
        raise ImageMissing(missing(image, str(error.explanation or "no such image"))) from error
    except docker.errors.APIError as error:
        said = str(error.explanation or error)
        if re.search("invalid reference format|must be lowercase", said):
            raise UsageError(f"{image!r} is not the name of an image, such as nnbox-acdc:1.0 ({said}).") from error
        raise NnboxError(f"{image}: the container engine refused: {advised(said)}") from error
