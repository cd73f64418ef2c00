"""``nnbox`` on hostile input: each run in a forked child with limits on time and memory, and what became of it.

The parent has imported everything once, so that a run costs milliseconds; what a child breaks ends with it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SECONDS = 90.0
"""A guard against hangs: the good runs take less than one."""
ADDRESS_SPACE = 6 << 30
"""A guard for the machine, in bytes beyond the parent's: what is measured is the peak."""
MORE_THAN_GOOD = 300 << 20
"""Bytes that a hostile run may take beyond a good one."""
ALLOWED = (0, 1, 2, 3)


Call = Callable[[Sequence[str]], int]
"""Arguments to exit code."""


@dataclass(frozen=True)
class Ran:
    """code: None where the child ended otherwise. ended: ``ended``, ``hung`` or ``signal N``. peak: bytes resident."""

    code: int | None
    out: str
    err: str
    ended: str
    peak: int


def one_thread() -> None:
    """Before anything heavy is imported: threads do not outlive a fork, and locks they held stay locked."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS", "NUMBA_NUM_THREADS")
    os.environ.update(dict.fromkeys(names, "1"))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(1)


def run_forked(
    commands: Sequence[Sequence[str]], scratch: Path, seconds: float = SECONDS, call: Call | None = None
) -> list[Ran]:
    """Run ``nnbox``, or ``call``, with each of ``commands``' arguments, one after the other in one child.

    scratch: an empty folder for the child's output. A child that dies or hangs has run no further command.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _in_child(commands, scratch, call or nnbox)
    waiting = os.pidfd_open(child)
    try:
        hung = not select.select([waiting], [], [], seconds)[0]
        if hung:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    finally:
        os.close(waiting)
    ran = [_read(scratch, number) for number in range(len(commands)) if (scratch / f"{number}.json").is_file()]
    if len(ran) < len(commands):
        number = len(ran)
        ended = "hung" if hung else f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "exited"
        out, err = (_text(scratch / f"{number}.{name}") for name in ("out", "err"))
        ran.append(Ran(None, out, err, ended, 0))
    return ran


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _read(scratch: Path, number: int) -> Ran:
    facts = json.loads((scratch / f"{number}.json").read_text())
    out, err = (_text(scratch / f"{number}.{name}") for name in ("out", "err"))
    return Ran(facts["code"], out, err, "ended", facts["peak"])


def _in_child(commands: Sequence[Sequence[str]], scratch: Path, call: Call) -> None:
    try:
        # A terminal's Ctrl-C is the parent's to handle.
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = _status("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        for order, arguments in enumerate(commands):
            for descriptor, name in ((1, "out"), (2, "err")):
                file = os.open(scratch / f"{order}.{name}", os.O_WRONLY | os.O_CREAT)
                os.dup2(file, descriptor)
                os.close(file)
            # Whatever the parent has in their place.
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            Path("/proc/self/clear_refs").write_text("5")
            try:
                code = call(arguments)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            written = scratch / f"{order}.json"
            written.with_suffix(".part").write_text(json.dumps({"code": code, "peak": _status("VmHWM")}))
            written.with_suffix(".part").rename(written)
    finally:
        os._exit(0)


def nnbox(arguments: Sequence[str]) -> int:
    """Run ``nnbox`` as its entry point does; returns the exit code."""
    from nnunet_box.cli.app import main

    sys.argv = ["nnbox", *arguments]
    try:
        main()
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


def _status(field: str) -> int:
    """Bytes, as the kernel counts them of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def broken(ran: Ran, good_peak: int) -> str | None:
    """What no hostile input may bring about, whatever the command: ``crashed``, ``hung``, ``over memory``."""
    if ran.ended != "ended":
        return "hung" if ran.ended == "hung" else f"crashed: {ran.ended}"
    if "Traceback (most recent call last)" in ran.err + ran.out:
        return "crashed: traceback"
    if ran.code not in ALLOWED:
        return f"crashed: exit code {ran.code}"
    if ran.peak > good_peak + MORE_THAN_GOOD or "not enough memory" in ran.err:
        return f"over memory: {ran.peak >> 20} MB, {good_peak >> 20} with good input"
    return None


def message(ran: Ran) -> str | None:
    """The last line of a command that failed; None where it is no message."""
    lines = ran.err.strip().splitlines()
    return lines[-1] if lines and lines[-1].startswith("nnbox: ") else None


@dataclass(frozen=True)
class Failure:
    """One run that ended otherwise than it has to. what: was done to the input, enough to do it again."""

    what: dict[str, object]
    command: str
    outcome: str
    told: str

    def as_json(self) -> dict[str, object]:
        values = asdict(self)
        what: dict[str, object] = values.pop("what")
        return {**what, **values}


def tally(counts: dict[str, dict[str, int]], key: str, outcome: str) -> None:
    """Count an outcome; what follows a colon is detail."""
    row = counts.setdefault(key, {"tried": 0})
    row["tried"] += 1
    name = outcome.split(":")[0]
    row[name] = row.get(name, 0) + 1


def imported(modules: Sequence[str]) -> None:
    """Import what children would each import again."""
    import importlib

    for module in modules:
        importlib.import_module(module)


def faultless_run(script: str, mutants: int, seed: int) -> dict[str, Any]:
    """What a script of this folder prints of so many mutants; none of them may have failed."""
    command = [sys.executable, str(Path(__file__).parent / script), "--mutants", str(mutants), "--seed", str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout, ran.stderr
    counted: dict[str, Any] = json.loads(ran.stdout)
    assert not counted["failures"], counted["failures"]
    assert ran.returncode == 0
    return counted
