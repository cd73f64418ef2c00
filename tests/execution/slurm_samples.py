"""Asking the Slurm of ``.ci/slurm.sh``, and taking its only node away."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from nnunet_box.execution.records import Record, read_record
from nnunet_box.workspace import Workspace
from tests.execution.process_trees import below, command_of, parents

PATIENCE_SECONDS = 3600
ONE_CORE = ["--slurm-option", "--cpus-per-task=1"]


def slurm(*arguments: str) -> str:
    """What one of Slurm's commands prints."""
    ended = subprocess.run(arguments, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def records(workspace: Workspace) -> list[Record]:
    """Of all tasks that have one."""
    found = (read_record(workspace, folder.name) for folder in workspace.root.glob("tasks/*/*/"))
    return [record for record in found if record is not None]


def queue(workspace: Workspace) -> dict[str, str]:
    """Task to state of the jobs that a workspace's records name."""
    lines = [line.split("|") for line in slurm("squeue", "--noheader", "--format=%i|%T").splitlines()]
    jobs = {job: state for job, state in lines}
    return {record.task: jobs[record.job] for record in records(workspace) if record.job in jobs}


def node_state() -> str:
    """Of the only node, such as ``idle`` or ``down*``."""
    return slurm("sinfo", "--noheader", "--format=%T").strip()


def node_around(pid: int) -> set[int]:
    """All that ends with the node on which a job's process runs: the node's daemon and every process of the job."""
    parent = parents()
    while pid > 1 and not is_step(pid):
        pid = parent.get(pid, 0)
    return {daemon(), *below(pid)} if pid > 1 else set()


def is_step(pid: int) -> bool:
    """Whether this is the process below which Slurm runs a job."""
    return "".join(command_of(pid)[:1]).startswith("slurmstepd:")


def daemon() -> int:
    """The node's daemon."""
    return int(Path(configured("SlurmdPidFile")).read_text())


def configured(name: str) -> str:
    """A setting of the Slurm that answers."""
    lines = [line.partition("=") for line in slurm("scontrol", "show", "config").splitlines()]
    return next(value.strip() for key, _, value in lines if key.strip() == name)


def bring_node_back() -> None:
    """Start the node's daemon where it has gone, and wait until Slurm has the node again."""
    if not command_of(daemon()):
        subprocess.run(["slurmd", "-f", os.environ["SLURM_CONF"]], cwd="/", check=True)
    until = time.monotonic() + PATIENCE_SECONDS
    while node_state() not in ("idle", "mixed", "allocated"):
        assert time.monotonic() < until, node_state()
        time.sleep(0.5)
