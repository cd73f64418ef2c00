"""What a Ray worker does on its node. It gets words and no objects: argv, names, paths."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import nnunet_box
from nnunet_box.execution.records import log_file
from nnunet_box.execution.run_task import command_line, exit_code, start_process
from nnunet_box.workspace import Workspace

LOOK_EVERY_SECONDS = 0.5
SHARED_WITHIN_SECONDS = 60.0
"""A network's file system may show another machine's new file late: NFS keeps names for up to a minute (``nfs(5)``,
``acdirmax``).
"""


def mark_of(workspace: Workspace) -> str:
    """By which a node knows that it sees the same folder and not one of the same name: what the run was asked for."""
    try:
        return hashlib.sha256(workspace.request.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def run_on_node(
    root: str, dataset: str, mark: str, version: str, name: str, key: str, argv: Sequence[str]
) -> tuple[int, str]:
    """What a Ray worker does: run a task as a process of its own. Returns its exit code, and what kept it from being
    run, where something did.

    ``ray.cancel`` interrupts the worker: the process is then asked to end, and waited for. It ends with the worker.
    """
    workspace = Workspace(Path(root), dataset)
    problem = _problem(workspace, mark, version)
    if problem is not None:
        return 1, problem
    log = log_file(workspace, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = start_process(command_line(workspace, name, key, argv), output)
    while True:
        try:
            # Not wait(): Ray's interrupt does not wake a system call.
            while process.poll() is None:
                time.sleep(LOOK_EVERY_SECONDS)
            return exit_code(process.returncode), ""
        except KeyboardInterrupt:
            process.terminate()


def _problem(workspace: Workspace, mark: str, version: str) -> str | None:
    """Why a task cannot run on this node."""
    host = socket.gethostname()
    if nnunet_box.__version__ != version:
        return f"{host} has nnunet_box {nnunet_box.__version__}, not {version}: install the same on every node."
    until = time.monotonic() + SHARED_WITHIN_SECONDS
    while mark_of(workspace) != mark:
        if not workspace.root.is_dir() or time.monotonic() > until:
            return (
                f"{workspace.root} on {host} is not this run's workspace: it has to lie on a file system that all "
                "nodes share, at the same path."
            )
        time.sleep(LOOK_EVERY_SECONDS)
    return None
