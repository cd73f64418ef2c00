"""Running a graph on this machine: one training a GPU, or a few beside each other on the cores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from nnunet_box.execution.graph import Task
from nnunet_box.execution.run_task import command_line, exit_code, start_process
from nnunet_box.workspace import Workspace

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """Room for one task. gpu: as ``CUDA_VISIBLE_DEVICES`` names it, None for none. cores: it is bound to."""

    cores: tuple[int, ...]
    gpu: str | None = None


def machine_slots(device: str, at_once: int | None = None) -> list[Slot]:
    """Slots for trainings: one for each GPU that ``device`` allows, else ``at_once`` (1 by default) without one; the
    cores this process may use are shared out among them.
    """
    gpus = visible_gpus() if device == "auto" else []
    if device.startswith("cuda"):
        gpus = [device.partition(":")[2] or "0"]
    cores = sorted(os.sched_getaffinity(0))
    count = min(len(gpus), at_once or len(gpus)) if gpus else min(at_once or 1, len(cores))
    shares = [tuple(cores[number::count]) for number in range(count)]
    return [Slot(tuple(share) or tuple(cores), gpus[number] if gpus else None) for number, share in enumerate(shares)]


def visible_gpus() -> list[str]:
    """Names of the GPUs that may be used, without loading torch; none where the driver does not answer."""
    chosen = os.environ.get(VISIBLE_GPUS)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        asked = subprocess.run(  # noqa: S603
            [program, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return asked.stdout.split() if asked.returncode == 0 else []


@dataclass
class LocalExecutor:
    """Trainings in ``slots``; one other task at a time, on all cores, in their place where there is no GPU and beside
    them where there is.
    """

    workspace: Workspace
    slots: Sequence[Slot]
    _running: dict[str, tuple[subprocess.Popen[bytes], Slot | None]] = field(default_factory=dict)

    def room_for(self, task: Task) -> bool:
        """See ``schedule.Executor``."""
        taken = [slot for _, slot in self._running.values()]
        if task.gpu:
            return self._free() is not None and (self.slots[0].gpu is not None or None not in taken)
        return None not in taken and (self.slots[0].gpu is not None or not taken)

    def start(self, task: Task) -> None:
        """See ``schedule.Executor``."""
        slot = self._free() if task.gpu else None
        bound = slot is not None and len(self.slots) > 1
        cores = slot.cores if slot is not None and bound else None
        environment = dict(os.environ)
        if slot is not None and slot.gpu is not None:
            environment[VISIBLE_GPUS] = slot.gpu
        command = command_line(self.workspace, task.name, task.key, task.argv, cores)
        self._running[task.name] = (start_process(command, environment=environment), slot)

    def ended(self) -> list[tuple[str, int]]:
        """See ``schedule.Executor``."""
        found = [(name, process.poll()) for name, (process, _) in self._running.items()]
        for name, code in found:
            if code is not None:
                del self._running[name]
        return [(name, exit_code(code)) for name, code in found if code is not None]

    def stop(self, at_once: bool) -> None:
        """See ``schedule.Executor``."""
        for process, _ in self._running.values():
            process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def _free(self) -> Slot | None:
        taken = [slot for _, slot in self._running.values()]
        return next((slot for slot in self.slots if slot not in taken), None)
