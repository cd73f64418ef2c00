"""``nnbox train-all --executor slurm``: each task a batch job that begins when those it needs have ended well.

Through plain ``sbatch``: its script is what a person would write, can be read in the queue and submitted by hand, which
a pickled callable cannot. No accounting is asked: what ``squeue`` no longer lists is judged by records and results.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nnunet_box.errors import NnboxError, UsageError
from nnunet_box.execution.graph import Kind, Task
from nnunet_box.execution.records import Record, State, read_record, states, write_record
from nnunet_box.execution.run_task import command_line
from nnunet_box.execution.schedule import MOST_ATTEMPTS
from nnunet_box.interrupts import BEFORE_A_LIMIT, COME_BACK
from nnunet_box.workspace import Workspace

SLURM = "slurm"
WARN_SECONDS = 120
"""Between the signal and the time limit: a batch, its checkpoint, and a file system that takes its time."""
CORES = 8
"""Of a job, unless a person says otherwise: a GPU's training has at most so many workers."""
TIMEOUT_SECONDS = 120
NEVER = "DependencyNeverSatisfied"
AT_WORK = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
OUR_OWN = ("--array", "--clusters", "--dependency", "--parsable", "--test-only", "--wait", "--wrap")
"""Options that would make other jobs than those the graph counts on."""
_OPTION = re.compile(r"(?:(?P<kind>[a-z]+):)?(?P<option>(?P<name>--[a-z][a-z-]*)(?:=[^\x00-\x1f\x7f]*)?)")
_END = "END_OF_SCRIPT"


@dataclass(frozen=True)
class SlurmOption:
    """An option of ``sbatch`` as a person gave it. kind: of the tasks it is for, None for all."""

    kind: Kind | None
    text: str


@dataclass(frozen=True)
class Job:
    """What Slurm has of a job. reason: why it waits, in Slurm's words; ``None`` is one of them."""

    state: Literal["running", "submitted"]
    reason: str


@dataclass(frozen=True)
class Step:
    """A task that is not done. job: the one that does it already; None where one has to be submitted. needs: names of
    tasks that are not done either. replaces: a waiting job that waits for one that will never end well.
    """

    task: Task
    job: str | None
    needs: tuple[str, ...]
    replaces: str | None = None


def parse_option(text: str) -> SlurmOption:
    """``--partition=gpu``, or ``train:--partition=gpu`` for one kind of task.

    Raises
    ------
    UsageError: anything else, or an option that would make other jobs than the graph counts on.
    """
    found = _OPTION.fullmatch(text)
    kinds = get_args(Kind)
    if found is None or (found["kind"] is not None and found["kind"] not in kinds):
        raise UsageError(
            f"--slurm-option {text!r}: write an option of sbatch as --name or --name=value, for one kind of task as "
            f"train:--name=value; kinds are {', '.join(kinds)}."
        )
    if found["name"] in OUR_OWN:
        raise UsageError(f"--slurm-option {text}: {found['name']} is set by the order of the tasks.")
    return SlurmOption(found["kind"], found["option"])


def queue() -> dict[str, Job]:
    """Job id to what Slurm says, of all jobs that wait or run; without those that wait in vain.

    Raises
    ------
    NnboxError: ``squeue`` is not there, or Slurm does not answer.
    """
    found = {}
    for line in _slurm(["squeue", "--noheader", "--format=%i|%T|%r"]).splitlines():
        job, state, reason = line.strip().split("|", 2)
        if reason != NEVER:
            found[job] = Job("running" if state in AT_WORK else "submitted", reason)
    return found


def steps(workspace: Workspace, tasks: Sequence[Task], known: Mapping[str, Job]) -> list[Step]:
    """What is not done of a graph, in its order. A job that waits for a task that has to be submitted is submitted
    again itself: what it waits for will never be.

    Raises
    ------
    UsageError: a job of one of these tasks waits or runs with other settings.
    """
    found = states(workspace, list(tasks), {SLURM: lambda: {job: entry.state for job, entry in known.items()}})
    left = [task for task in tasks if found[task.name] != "done"]
    jobs = {task.name: _live(workspace, task, known) for task in left}
    foreign = [job for task in left if (job := jobs[task.name]) is not None and job[1] != task.key]
    if foreign:
        numbers = " ".join(job for job, _ in foreign)
        raise UsageError(
            f"Slurm still has jobs of these tasks with other settings, data or plan: {numbers}. Let them end, or: "
            f"scancel {numbers}"
        )
    made: list[Step] = []
    new: set[str] = set()
    for task in left:
        entry, needs = jobs[task.name], tuple(need for need in task.needs if found[need] != "done")
        job = None if entry is None else entry[0]
        if job is not None and known[job].state == "submitted" and new & set(needs):
            made.append(Step(task, None, needs, replaces=job))
        else:
            made.append(Step(task, job, needs))
        if made[-1].job is None:
            new.add(task.name)
    return made


def _live(workspace: Workspace, task: Task, known: Mapping[str, Job]) -> tuple[str, str] | None:
    """Id and key of the job that Slurm has of a task."""
    record = read_record(workspace, task.name)
    if record is None or record.scheduler != SLURM or record.job not in known or record.state in ("done", "failed"):
        return None
    return record.job, record.key


def submit(workspace: Workspace, made: Sequence[Step], options: Sequence[SlurmOption]) -> dict[str, str]:
    """Submit the steps that have no job; returns task to job id of those. Each id is noted at once, so that nothing is
    submitted twice whenever this ends.

    Raises
    ------
    NnboxError: ``sbatch`` is not there or refuses a job.
    """
    jobs: dict[str, str] = {}
    sent: dict[str, str] = {}
    for step in made:
        task = step.task
        if step.job is not None:
            jobs[task.name] = step.job
            continue
        if step.replaces is not None:
            # Had it begun after all, it would be left alone.
            _slurm(["scancel", "--state=PENDING", step.replaces])
        before = read_record(workspace, task.name)
        attempts = before.attempts if before is not None and before.key == task.key else 0
        workspace.task(task.name).mkdir(parents=True, exist_ok=True)
        try:
            answer = _slurm(_sbatch([jobs[need] for need in step.needs]), job_script(workspace, task, options))
        except NnboxError as error:
            raise NnboxError(
                f"{task.name}: {error} {len(sent)} tasks were submitted before it; with what is wrong put right "
                "(--slurm-option, --device cpu where there are no GPUs), the same command submits the others."
            ) from error
        jobs[task.name] = sent[task.name] = answer.strip().partition(";")[0]
        record = Record(task=task.name, key=task.key, state="submitted", attempts=attempts, scheduler=SLURM)
        write_record(workspace, record.model_copy(update={"job": sent[task.name]}))
    return sent


def _sbatch(needs: Sequence[str]) -> list[str]:
    return ["sbatch", "--parsable", *([f"--dependency=afterok:{':'.join(needs)}"] if needs else [])]


def job_script(workspace: Workspace, task: Task, options: Sequence[SlurmOption]) -> str:
    """The batch script of a task. What a person chose comes last and so has the last word.

    It is asked to go on later where the task was told to end before a time limit, and a few times where it was killed.
    """
    folder = workspace.task(task.name).resolve()
    gpu = task.gpu and task.settings is not None and task.settings.device != "cpu"
    directives = [
        f"--job-name=nnbox-{workspace.dataset}-{task.name}",
        # Only what Slurm itself has to say: the task's words are in its log. A % would begin a name of Slurm's.
        f"--output={str(folder / 'slurm.txt').replace('%', '%%')}",
        "--open-mode=append",
        "--requeue",
        "--kill-on-invalid-dep=yes",
        f"--signal=B:{BEFORE_A_LIMIT.name.removeprefix('SIG')}@{WARN_SECONDS}",
        f"--cpus-per-task={CORES}",
        *(["--gres=gpu:1"] if gpu else []),
        *(option.text for option in options if option.kind in (None, task.kind)),
    ]
    command = command_line(workspace, task.name, task.key, task.argv)
    place = command.index("--")
    words = [shlex.join(command[:place]), f'--job "{SLURM}:$SLURM_JOB_ID"', shlex.join(command[place:])]
    killed = 128 + 9
    early = 128 + BEFORE_A_LIMIT
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {shlex.quote(_plain(directive))}" for directive in directives),
            "",
            'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"',
            "",
            "# Before the time limit this shell alone is told; it hands that on and waits for the end.",
            'trap \'kill -s USR1 "$task"\' USR1',
            'trap \'kill -s TERM "$task"\' TERM',
            f"{_plain(' '.join(words))} &",
            "task=$!",
            'wait "$task"',
            'while kill -0 "$task" 2>/dev/null; do wait "$task"; done',
            'wait "$task"',
            "code=$?",
            "",
            f"# {COME_BACK}: it ended before the limit and goes on later; {early}: so early that nothing had begun; "
            f"{killed}: killed.",
            f'if [ "$code" -eq {COME_BACK} ] || [ "$code" -eq {early} ] ||',
            f'    {{ [ "$code" -eq {killed} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {MOST_ATTEMPTS - 1} ]; }}; then',
            '    scontrol requeue "$SLURM_JOB_ID"',
            "fi",
            'exit "$code"',
            "",
        ]
    )


def submission_script(workspace: Workspace, made: Sequence[Step], options: Sequence[SlurmOption]) -> str:
    """One shell script that submits what ``submit`` would, for people who look first or submit by hand."""
    lines = ["#!/bin/bash", f"# The tasks of {workspace.dataset} that are not done, as Slurm jobs.", "set -e"]
    for step in made:
        variable = _variable(step.task.name)
        lines.append("")
        if step.job is not None:
            lines += [f"# {step.task.name} waits or runs already.", f"{variable}={step.job}"]
            continue
        if step.replaces is not None:
            lines.append(f"scancel --state=PENDING {step.replaces}")
        needs = "".join(f":${{{_variable(need)}%%;*}}" for need in step.needs)
        dependency = f' --dependency="afterok{needs}"' if needs else ""
        lines.append(f"mkdir -p {shlex.quote(_plain(str(workspace.task(step.task.name).resolve())))}")
        script = job_script(workspace, step.task, options)
        lines += [f"{variable}=$(sbatch --parsable{dependency} <<'{_END}'", script.rstrip("\n"), _END, ")"]
        lines.append(f'echo "{step.task.name}: job ${variable}"')
    return "\n".join([*lines, ""])


def _variable(name: str) -> str:
    return "job_" + re.sub(r"\W", "_", name)


def _plain(text: str) -> str:
    """The text, which goes on one line of a script.

    Raises
    ------
    UsageError: it has control characters in it.
    """
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise UsageError(f"{text!r}: a batch script cannot name this; choose folders without line breaks.")
    return text


def waiting_reasons(
    workspace: Workspace, tasks: Sequence[Task], found: Mapping[str, State], known: Mapping[str, Job]
) -> dict[str, str]:
    """Task to why its job waits or will not run, in words."""
    told = {}
    for task in tasks:
        record = read_record(workspace, task.name)
        if record is None or record.scheduler != SLURM or record.job is None or record.key != task.key:
            continue
        if found[task.name] == "submitted" and record.job in known:
            told[task.name] = f"job {record.job} waits: {known[record.job].reason}"
        elif found[task.name] != "done" and record.state == "submitted" and record.job not in known:
            told[task.name] = (
                f"job {record.job} has gone without having run: it was cancelled, what it needs has failed, or it "
                f"could not start ({workspace.task(task.name) / 'slurm.txt'})"
            )
    return told


def is_there() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def _slurm(command: list[str], text: str | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise NnboxError(
            f"{command[0]} was not found: run this where jobs are submitted from, such as a cluster's login node. "
            "--dry-run prints the scripts anywhere; without --executor slurm everything runs on this machine."
        )
    # What a person has set for looking at the queue would hide jobs from us.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        ended = subprocess.run(  # noqa: S603
            command, input=text, capture_output=True, text=True, env=environment, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NnboxError(f"{command[0]} gave no answer in {TIMEOUT_SECONDS} s.") from error
    if ended.returncode:
        words = " ".join(ended.stderr.split()) or f"it ended with {ended.returncode}."
        raise NnboxError(f"Slurm refused ({command[0]}): {words}")
    return ended.stdout
