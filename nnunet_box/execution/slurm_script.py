"""The batch script of a task, as a person would write it, and what a person may add to it."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from nnunet_box.errors import UsageError
from nnunet_box.execution.graph import Kind, Task
from nnunet_box.execution.run_task import MOST_IN_VAIN, NO_ROOM, command_line
from nnunet_box.execution.schedule import MOST_ATTEMPTS
from nnunet_box.interrupts import BEFORE_A_LIMIT, COME_BACK
from nnunet_box.workspace import Workspace

SLURM = "slurm"
SLURM_LOG = "slurm.txt"
"""What Slurm itself has to say of a task's jobs, beside the task's log."""
TOLD_EARLY = "told-early.txt"
"""A line for each run of a job, one after the other, that ended before it could note anything."""
WARN_SECONDS = 120
"""Between the signal and the time limit: a batch, its checkpoint, and a file system that takes its time."""
CORES = 8
"""Of a job, unless a person says otherwise: a GPU's training has at most so many workers."""
OUR_OWN = ("--array", "--clusters", "--dependency", "--parsable", "--test-only", "--wait", "--wrap")
"""Options that would make other jobs than those the graph counts on."""
_OPTION = re.compile(r"(?:(?P<kind>[a-z]+):)?(?P<option>(?P<name>--[a-z][a-z-]*)(?:=[^\x00-\x1f\x7f\\]*)?)")
_BODY = """
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# Before the time limit this shell alone is told: it hands that on and waits for the end.
trap 'kill -s USR1 "$task"' USR1
trap 'kill -s TERM "$task"' TERM
%(command)s &
task=$!
wait "$task"
while kill -0 "$task" 2>/dev/null; do wait "$task"; done
wait "$task"
code=$?

# %(come_back)d: it ended for the limit and goes on later; %(early)d: told before it could listen; %(killed)d: killed.
early=0
if [ "$code" -eq %(early)d ]; then
    echo "$SLURM_JOB_ID" >> %(told_early)s
    early=$(grep -cx "$SLURM_JOB_ID" %(told_early)s)
    [ "$early" -lt %(in_vain)d ] || echo %(no_room)s
else
    rm -f %(told_early)s
fi
if [ "$code" -eq %(come_back)d ] || { [ "$early" -gt 0 ] && [ "$early" -lt %(in_vain)d ]; } ||
    { [ "$code" -eq %(killed)d ] && [ "${SLURM_RESTART_COUNT:-0}" -lt %(restarts)d ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@dataclass(frozen=True)
class SlurmOption:
    """An option of ``sbatch`` as a person gave it. kind: of the tasks it is for, None for all."""

    kind: Kind | None
    text: str


def parse_option(text: str) -> SlurmOption:
    """``--partition=gpu``, or ``train:--partition=gpu`` for one kind of task.

    Raises
    ------
    UsageError: anything else, or an option that would make other jobs than the graph counts on.
    """
    found = _OPTION.fullmatch(text)
    kinds: tuple[Kind, ...] = get_args(Kind)
    kind = None if found is None else next((kind for kind in kinds if kind == found["kind"]), None)
    if found is None or (found["kind"] is not None and kind is None):
        raise UsageError(
            f"--slurm-option {text!r}: write an option of sbatch as --name or --name=value, for one kind of task as "
            f"train:--name=value; kinds are {', '.join(kinds)}."
        )
    if found["name"] in OUR_OWN:
        raise UsageError(f"--slurm-option {text}: {found['name']} is set by the order of the tasks; leave it out.")
    return SlurmOption(kind, found["option"])


def job_script(workspace: Workspace, task: Task, options: Sequence[SlurmOption]) -> str:
    """The batch script of a task. What a person chose comes last and so has the last word.

    Slurm is asked to begin it again where the task was told to end before a time limit, and a few times where it was
    killed: it goes on from its checkpoint.

    Raises
    ------
    UsageError: the workspace or the data set cannot be named in a script.
    """
    folder = workspace.task(task.name).resolve()
    gpu = task.gpu and task.settings is not None and task.settings.device != "cpu"
    directives = [
        f"--job-name=nnbox-{workspace.dataset}-{task.name}",
        # A % would begin a name of Slurm's.
        f"--output={str(folder / SLURM_LOG).replace('%', '%%')}",
        "--open-mode=append",
        "--requeue",
        "--kill-on-invalid-dep=yes",
        f"--signal=B:{BEFORE_A_LIMIT.name.removeprefix('SIG')}@{WARN_SECONDS}",
        f"--cpus-per-task={CORES}",
        *(["--gres=gpu:1"] if gpu else []),
        *(option.text for option in options if option.kind in (None, task.kind)),
    ]
    command = command_line(workspace, task.name, task.key, task.argv, outputs=task.outputs)
    place = command.index("--")
    words = [shlex.join(command[:place]), f'--job "{SLURM}:$SLURM_JOB_ID"', shlex.join(command[place:])]
    body = _BODY % {
        "command": one_line(" ".join(words)),
        "come_back": COME_BACK,
        "early": 128 + BEFORE_A_LIMIT,
        "killed": 128 + signal.SIGKILL,
        "restarts": MOST_ATTEMPTS - 1,
        "told_early": shlex.quote(one_line(str(folder / TOLD_EARLY))),
        "in_vain": MOST_IN_VAIN,
        "no_room": shlex.quote(NO_ROOM),
    }
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {shlex.quote(one_line(line))}" for line in directives), body])


def one_line(text: str) -> str:
    """The text, which goes on one line of a script.

    Raises
    ------
    UsageError: it has control characters in it, or a backslash, which Slurm drops even between quotes.
    """
    if re.search(r"[\x00-\x1f\x7f\\]", text):
        raise UsageError(
            f"{text!r}: a batch script cannot name this; choose folders without line breaks and backslashes."
        )
    return text
