"""Running one task of a graph, whoever asks for it: this machine's slots, a Slurm job, a Ray worker."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from nnunet_box.errors import NnboxError
from nnunet_box.execution.advance import reached
from nnunet_box.execution.records import begun_record, log_file, now, read_record, task_lock, write_record
from nnunet_box.interrupts import BEFORE_A_LIMIT, COME_BACK, SIGNALS
from nnunet_box.locks import held
from nnunet_box.workspace import Workspace

PROGRAM = [sys.executable, "-m", "nnunet_box.cli.app"]
"""This nnbox, whatever is on the PATH."""
PR_SET_PDEATHSIG = 1
MOST_IN_VAIN = 3
"""Runs of a scheduler's job that end for its time limit without having got further; a fourth would not either."""
NO_ROOM = (
    f"Told to end before the time limit {MOST_IN_VAIN} times in a row, and not a step further: the limit leaves no "
    "room beyond the start. Give more time, as with --slurm-option --time=4:00:00, and type the same command again."
)


def command_line(
    workspace: Workspace,
    name: str,
    key: str,
    argv: Sequence[str],
    cores: Sequence[int] | None = None,
    outputs: Sequence[Path] = (),
) -> list[str]:
    """The argv of a process that runs a task with ``run_task``."""
    where = ["--workspace", str(workspace.root.resolve()), "--dataset", workspace.dataset]
    bound = ["--cores", ",".join(map(str, cores))] if cores else []
    made = [word for output in outputs for word in ("--made", str(output.resolve()))]
    return [*PROGRAM, "run-task", name, "--key", key, *where, *bound, *made, "--", *argv]


def run_task(
    workspace: Workspace,
    name: str,
    key: str,
    argv: Sequence[str],
    cores: Sequence[int] | None = None,
    job: tuple[str, str] | None = None,
    outputs: Sequence[Path] = (),
) -> int:
    """Run ``nnbox argv`` as a process, its output in the task's log, its fate in the task's record; returns its exit
    code, 128 and the signal's number where one killed it.

    A second process that runs the same task waits for the first; the command then finds that nothing is left to do.
    Signals are handed on, and the command ends when this process is killed. cores: the only ones it may use. job:
    scheduler and what it calls the job that this is. outputs: what the task makes; a job that is told to end before its
    time limit again and again, and makes nothing meanwhile, fails.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    with held(task_lock(workspace, name), f"task {name}"):
        record = begun_record(name, key, read_record(workspace, name), *(job or ()))
        write_record(workspace, record)
        before = reached(outputs)
        code = _watched(log_file(workspace, name), argv)
        told = code in (COME_BACK, 128 + BEFORE_A_LIMIT)  # The latter: before it could listen.
        code = COME_BACK if told else code
        in_vain = record.in_vain + 1 if told and outputs and reached(outputs) == before else 0
        if in_vain >= MOST_IN_VAIN:
            with log_file(workspace, name).open("a", encoding="utf-8") as log:
                log.write(f"{NO_ROOM}\n")
            code = NnboxError.exit_code
        unfinished = code == COME_BACK or code > 128
        state = "done" if code == 0 else "unfinished" if unfinished else "failed"
        changes = {"state": state, "exit_code": code, "ended": now(), "in_vain": in_vain}
        write_record(workspace, record.model_copy(update=changes))
    return code


def _watched(log: Path, argv: Sequence[str]) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*PROGRAM, *argv]
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        with log.open("ab") as output:
            output.write(f"--- {now()} nnbox {' '.join(argv)}\n".encode())
            output.flush()
            process = start_process(command, output)
            for number in early:
                process.send_signal(number)
            code = process.wait()
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    return exit_code(code)


def start_process(
    command: Sequence[str], output: IO[bytes] | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, as Ctrl-C on a terminal is handed on by its parent, once; on Linux it is
    sent SIGTERM when its parent dies, however it dies. output: for what it prints, instead of this process's.
    """
    return subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        start_new_session=True,
        preexec_fn=_terminate_with_parent,
    )


def exit_code(returned: int) -> int:
    """A process's return code as a shell has it: 128 and the signal's number where one killed it."""
    return returned if returned >= 0 else 128 - returned


def _terminate_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
