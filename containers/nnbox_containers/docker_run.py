"""How a container is started through Docker's API, and how much memory it took while it ran."""

from __future__ import annotations

import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnbox_containers.docker_connection import CONNECT_SECONDS, EngineFacts, connect
from nnbox_containers.engine import Mount, RunLimits
from nnunet_box.errors import EngineUnavailable, InvalidData, NnboxError

GROUPS, PROCESSES = Path("/sys/fs/cgroup"), Path("/proc")
MOST_FILES = 1 << 20
WATCH_SECONDS, ASK_SECONDS = 0.02, 0.2


def host_options(mounts: Sequence[Mount], limits: RunLimits, podman: bool, selinux: bool) -> dict[str, Any]:
    """Arguments of ``create_host_config``.

    podman: once it is given one ulimit it forgets those of its containers.conf, and sets its own for the number of
    files and processes, which are higher than what a container may have on many machines.
    """
    from docker.types import Mount as BindMount

    ulimits = dict(limits.ulimits)
    if ulimits and podman:
        ulimits = _own_limits() | ulimits
    security = ["no-new-privileges"] if limits.no_new_privileges else []
    if selinux and mounts:
        # The other way, relabelling (:z), would change the labels of the person's own files for good.
        security.append("label=disable")
    options: dict[str, Any] = {
        # As mounts and not as "source:target" text: a colon in a path is a colon, and a missing source an error.
        "mounts": [BindMount(m.target, str(m.source.resolve()), type="bind", read_only=m.read_only) for m in mounts],
        "network_mode": limits.network,
        "read_only": limits.read_only,
        "tmpfs": {path: "" for path in limits.tmpfs} or None,
        "cap_drop": ["ALL"] if limits.drop_capabilities else None,
        "security_opt": security or None,
        "pids_limit": limits.pids,
        "shm_size": limits.shm_bytes,
        "ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in sorted(ulimits.items())] or None,
        "nano_cpus": round(limits.cpus * 1e9) if limits.cpus is not None else None,
        "init": limits.init or None,
    }
    if limits.memory_bytes is not None:
        # Swap would let a container pass here that an organiser without swap kills.
        options |= {"mem_limit": limits.memory_bytes, "memswap_limit": limits.memory_bytes}
    return options


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM (a scheduler's, or timeout's) unwind the block as an interrupt does, where nobody else handles it."""
    handles = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if handles:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        if handles:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def require_sources(mounts: Sequence[Mount]) -> None:
    """Raise ``InvalidData`` for a source that is not here; some engines make an empty folder in its place."""
    for mount in mounts:
        if not mount.source.exists():
            raise InvalidData(
                mount.source, f"a file or folder to show as {mount.target}", "nothing there", "Correct the path."
            )


def require_limits(limits: RunLimits, engine: EngineFacts) -> None:
    """Raise ``NnboxError`` where the engine would run the container without a limit that was asked for."""
    asked = {"memory": limits.memory_bytes, "pids": limits.pids, "cpus": limits.cpus}
    ignored = [name for name, value in asked.items() if value is not None and name in engine.missing_limits]
    if ignored:
        rootless = " without root" if engine.rootless else ""
        raise NnboxError(
            f"{engine.name}{rootless} cannot limit {', '.join(ignored)} here (control groups version "
            f"{engine.cgroup_version}): run the engine as root, or use version 2 with delegation."
        )


def _own_limits() -> dict[str, int]:
    """The hard limits of this process, as far as podman has not lowered its own below them."""
    most_processes = int((PROCESSES / "sys" / "kernel" / "pid_max").read_text())
    kinds = {"nofile": (resource.RLIMIT_NOFILE, MOST_FILES), "nproc": (resource.RLIMIT_NPROC, most_processes)}
    own = {name: (resource.getrlimit(kind)[1], most) for name, (kind, most) in kinds.items()}
    return {name: most if limit == resource.RLIM_INFINITY else min(limit, most) for name, (limit, most) in own.items()}


class MemoryWatch:
    """Follows a running container in a thread; use it as a context manager.

    peak_bytes: the most its control group held; None where nothing could be read. killed: the kernel ended one of its
    processes for want of memory. On this machine the group's own files are read: the kernel keeps the maximum there
    (``memory.max_usage_in_bytes``, version 2: ``memory.peak``). Elsewhere the engine is asked again and again, if it
    can tell: one that cannot may never answer, and holds the container while it is asked.
    """

    def __init__(self, container: str, group: Path | None, ask: bool = True) -> None:
        self.peak_bytes: int | None = None
        self.killed = False
        self._container, self._group, self._may_ask = container, group, ask
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory of a container", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(2 * ASK_SECONDS)

    def _watch(self) -> None:
        group = self._group
        if group is not None:
            self._repeat(lambda: self._read(group), WATCH_SECONDS)
        elif self._may_ask:
            with suppress(EngineUnavailable):
                client = connect()
                client.timeout = CONNECT_SECONDS
                self._repeat(lambda: self._ask(client), ASK_SECONDS)

    def _repeat(self, look: Callable[[], None], pause: float) -> None:
        while True:
            # The container may not quite run yet, or end and its group vanish at any moment; what was read stands.
            with suppress(Exception):
                look()
            if self._ended.wait(pause):
                return

    def _read(self, group: Path) -> None:
        self._note(_first_number(group / name for name in _PEAK_FILES))
        for name in ("memory.oom_control", "memory.events"):
            if (group / name).is_file():
                found = re.search(r"^oom_kill (\d+)$", (group / name).read_text(), re.MULTILINE)
                self.killed = self.killed or (found is not None and int(found[1]) > 0)

    def _ask(self, client: Any) -> None:
        memory = client.stats(self._container, stream=False, one_shot=True).get("memory_stats") or {}
        self._note(memory.get("max_usage") or memory.get("usage") or None)

    def _note(self, size_bytes: int | None) -> None:
        if size_bytes is not None:
            self.peak_bytes = max(size_bytes, self.peak_bytes or 0)


# The kernel's own maximum first; the present value where an old kernel keeps none.
_PEAK_FILES = ("memory.max_usage_in_bytes", "memory.peak", "memory.current")


def memory_group(
    state: Mapping[str, Any], container: str, groups: Path = GROUPS, processes: Path = PROCESSES
) -> Path | None:
    """The folder of a container's memory control group on this machine; None where it is not to be found.

    state: the container's, as its inspection tells. container: its identifier, which has to be in the group's path: a
    process number of another machine means nothing here.
    """
    try:
        lines = (processes / str(int(state["Pid"])) / "cgroup").read_text().splitlines()
    except (OSError, KeyError, ValueError):
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container not in path or not (controllers == "" or "memory" in controllers.split(",")):
            continue
        folder = groups / ("memory" if controllers else "") / path.lstrip("/")
        if any((folder / name).is_file() for name in _PEAK_FILES):
            return folder
    return None


def _first_number(paths: Iterable[Path]) -> int | None:
    for path in paths:
        if path.is_file():
            return int(path.read_text())
    return None
