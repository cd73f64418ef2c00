"""A Ray cluster of several nodes on this machine, and which of them runs what."""

from __future__ import annotations

from typing import Any

from nnunet_box.execution.records import read_record
from nnunet_box.workspace import Workspace
from tests.execution.process_trees import below

NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20}
"""The GPU is Ray's word alone: ``--device auto`` asks for it, finds no driver and trains on the CPU."""
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 30_000,
    "health_check_failure_threshold": 6,
}
"""A node that does not answer at all is given up after some seconds, one that is slow is not."""
HEAD = {**NODE, "num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "_system_config": HEALTH}
"""Without cores, as KubeRay has it."""


def raylet(node: Any) -> int:
    """The process below which all tasks of a node run."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def node_of(workspace: Workspace, task: str, nodes: list[Any]) -> Any | None:
    """The node that runs a task."""
    record = read_record(workspace, task)
    if record is None or record.pid is None or record.state != "running":
        return None
    return next((node for node in nodes if record.pid in below(raylet(node))), None)
