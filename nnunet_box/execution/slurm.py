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
from typing import Literal

from nnunet_box.errors import NnboxError, UsageError
from nnunet_box.execution.graph import Task
from nnunet_box.execution.records import Record, State, read_record, states, write_record
from nnunet_box.execution.slurm_script import SLURM, SLURM_LOG, SlurmOption, job_script, one_line
from nnunet_box.progress import say
from nnunet_box.workspace import Workspace

TIMEOUT_SECONDS = 120
NEVER = "DependencyNeverSatisfied"
AT_WORK = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
_END = "END_OF_SCRIPT"


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


def queue_if_any() -> dict[str, Job]:
    """As ``queue``, for a look at the scripts alone; nothing where there is no Slurm, or none that answers, which is
    said.
    """
    if shutil.which("squeue") is None:
        return {}
    try:
        return queue()
    except NnboxError as error:
        say(f"Jobs that were submitted before are not known: {error}")
        return {}


def steps(workspace: Workspace, tasks: Sequence[Task], known: Mapping[str, Job]) -> list[Step]:
    """What is not done of a graph, in its order. A job that waits for a task that has to be submitted is submitted
    again itself: what it waits for will never be.

    Raises
    ------
    UsageError: a job of one of these tasks waits or runs with other settings.
    """
    found = states(workspace, list(tasks), {SLURM: lambda: job_states(known)})
    left = [task for task in tasks if found[task.name] != "done"]
    jobs = {task.name: live for task in left if (live := _live_job(workspace, task.name, known)) is not None}
    foreign = [jobs[task.name] for task in left if task.name in jobs and jobs[task.name][1] != task.key]
    if foreign:
        numbers = " ".join(job for job, _ in foreign)
        raise UsageError(
            f"Slurm still has jobs of these tasks with other settings, data or plan: {numbers}. Let them end, or: "
            f"scancel {numbers}"
        )
    made: list[Step] = []
    new: set[str] = set()
    for task in left:
        needs = tuple(need for need in task.needs if found[need] != "done")
        job = jobs[task.name][0] if task.name in jobs else None
        in_vain = job is not None and known[job].state == "submitted" and bool(new & set(needs))
        made.append(Step(task, None if in_vain else job, needs, replaces=job if in_vain else None))
        if made[-1].job is None:
            new.add(task.name)
    return made


def _live_job(workspace: Workspace, name: str, known: Mapping[str, Job]) -> tuple[str, str] | None:
    """Id and key of the job that Slurm has of a task."""
    record = read_record(workspace, name)
    if record is None or record.scheduler != SLURM or record.job is None or record.state in ("done", "failed"):
        return None
    return (record.job, record.key) if record.job in known else None


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
        lines.append(f"mkdir -p {shlex.quote(one_line(str(workspace.task(step.task.name).resolve())))}")
        script = job_script(workspace, step.task, options)
        lines += [f"{variable}=$(sbatch --parsable{dependency} <<'{_END}'", script.rstrip("\n"), _END, ")"]
        lines.append(f'echo "{step.task.name}: job ${variable}"')
    return "\n".join([*lines, ""])


def _variable(name: str) -> str:
    return "job_" + re.sub(r"\W", "_", name)


def known_jobs(workspace: Workspace, tasks: Sequence[Task]) -> dict[str, Job]:
    """As ``queue``; where Slurm does not answer, what was last noted of each job, and a message."""
    try:
        return queue()
    except NnboxError as error:
        say(f"{error} What is said of Slurm's jobs is what was last noted of them.")
    records = [record for task in tasks if (record := read_record(workspace, task.name)) is not None]
    return {
        record.job: Job("running" if record.state == "running" else "submitted", "unknown")
        for record in records
        if record.scheduler == SLURM and record.job is not None
    }


def job_states(known: Mapping[str, Job]) -> dict[str, str]:
    """As ``records.states`` takes them."""
    return {job: entry.state for job, entry in known.items()}


def remarks(
    workspace: Workspace, tasks: Sequence[Task], found: Mapping[str, State], known: Mapping[str, Job]
) -> dict[str, str]:
    """Task to what there is to say of its job beside its state: why it waits, in Slurm's words, or that it has gone."""
    told = {}
    for task in tasks:
        record = read_record(workspace, task.name)
        if record is None or record.scheduler != SLURM or record.job is None or record.key != task.key:
            continue
        if found[task.name] == "submitted" and record.job in known:
            told[task.name] = known[record.job].reason
        elif (
            found[task.name] in ("waiting", "unfinished")
            and record.state == "submitted"
            and all(found[need] == "done" for need in task.needs)
        ):
            told[task.name] = (
                f"job {record.job} is gone and has not run: cancelled, or it could not start (log: "
                f"{workspace.task(task.name) / SLURM_LOG})"
            )
    return told


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
        raise NnboxError(
            f"{command[0]} gave no answer in {TIMEOUT_SECONDS} s: see that Slurm runs (scontrol ping)."
        ) from error
    if ended.returncode:
        words = " ".join(ended.stderr.split()) or f"it ended with {ended.returncode}."
        raise NnboxError(f"Slurm refused ({command[0]}): {words}")
    return ended.stdout
