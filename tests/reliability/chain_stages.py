"""The chain as commands that can be killed or starved of disk one by one, and what of its files has to be equal."""

from __future__ import annotations

import atexit
import hashlib
import importlib
import json
import os
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LIBRARIES = (
    "nnunet_box.cli.app",
    "nnunet_box.execution.graph",
    "nnunet_box.execution.fold",
    "nnunet_box.inference.folder",
    "nnunet_box.inference.choose",
    "nnunet_box.inference.openvino_runtime",
    "nnunet_box.inference.torch_runtime",
    "nnunet_box.submission.archive",
    "nnbox_challenges.acdc",
    "batchgenerators.transforms.abstract_transforms",
    "cc3d",
    "edt",
    "rich.console",
    "rich.table",
    "scipy.ndimage",
)
"""Not those that start threads when they are imported (blosc2, openvino): a fork copies one thread."""
TRAINING = ["--fold", "0", "--resume", "--epochs", "3", "--batches-per-epoch", "4", "--device", "cpu"]
OFTEN = ["--checkpoint-every", "0.01s"]
"""So often that a killed run loses no more than the batches of a tenth of a second."""
PATIENCE_SECONDS = 600
"""For what takes seconds; only a hang comes near it."""


@dataclass(frozen=True)
class Stage:
    """One command. argv: in a folder that holds ``download/`` and ``state/``. makes: where below ``state/`` its files
    are. kills: how many of a hundred it gets.
    """

    name: str
    argv: tuple[str, ...]
    makes: tuple[str, ...]
    kills: int


WORKSPACE = ("--workspace", "state/nnbox")
DOWNLOAD, TESTING = "download/database", "download/database/testing"
STAGES = (
    Stage("convert", ("convert", "-c", "acdc", DOWNLOAD, "--workers", "2", *WORKSPACE), ("nnbox/datasets",), 15),
    Stage("plan", ("plan", "acdc", *WORKSPACE), ("nnbox/preprocessed",), 8),
    Stage("preprocess", ("preprocess", "acdc", "--processes", "2", *WORKSPACE), ("nnbox/preprocessed",), 15),
    Stage(
        "train 2d",
        ("train", "acdc", "-c", "2d", *TRAINING, *OFTEN, "--workers", "1", *WORKSPACE),
        ("nnbox/models",),
        6,
    ),
    Stage(
        "train 3d_fullres",
        ("train", "acdc", "-c", "3d_fullres", *TRAINING, *OFTEN, "--workers", "0", *WORKSPACE),
        ("nnbox/models",),
        16,
    ),
    Stage("select", ("select", "acdc", *WORKSPACE), ("nnbox/models", "nnbox/bundles"), 12),
    Stage("bundle", ("build-submission", "bundle", "acdc", "-o", "state/bundle", *WORKSPACE), ("bundle",), 6),
    Stage(
        "predict",
        ("predict", "state/nnbox/bundles/acdc", TESTING, "state/predictions", "--resume"),
        ("predictions",),
        14,
    ),
    Stage(
        "archive",
        ("build-submission", "archive", "-c", "acdc", "state/predictions", "--test-folder", TESTING, *WORKSPACE),
        ("nnbox/submissions",),
        8,
    ),
)


def make_download(folder: Path) -> None:
    """The smallest cohort that can be split into five folds."""
    # Here, as numpy starts threads when it is imported unless it is told not to.
    from nnbox_challenges.synthetic import write_acdc_cohort

    write_acdc_cohort(folder / "download", patients=5, test_patients=2, seed=5, size=32, slices=(4, 5))


def load_libraries() -> None:
    """Import what the commands import, once for all of them, so that no kill is spent on it. See ``start``."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == len(list(Path("/proc/self/task").iterdir())) == 1, "a fork copies one thread"


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder. Not ``tempfile.TemporaryDirectory``: a process that is forked off would delete it as well."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def start(argv: tuple[str, ...], folder: Path, output: Path, kill: Mapping[str, Any] | None = None) -> int:
    """Start ``nnbox argv`` in ``folder`` as the first process of a group of its own; returns its number.

    It is forked off this one, whose libraries it has. kill: see ``kill_hook``. Its words go to a file: workers it
    leaves behind would keep a pipe open.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        words = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, words), (2, words)):
            os.dup2(source, stream)
        os.chdir(folder)
        if kill is not None:
            paths = [str(HERE / "kill_hook"), *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ |= {"NNBOX_KILL": json.dumps(kill), "PYTHONPATH": os.pathsep.join(paths)}
            runpy.run_path(str(HERE / "kill_hook" / "sitecustomize.py"))
        # Processes that it spawns shall not take this file for their program.
        sys.modules["__main__"], sys.argv = types.ModuleType("__main__"), ["nnbox", *argv]
        code = _main()
        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def _main() -> int:
    from nnunet_box.cli.app import main

    try:
        main()
    except SystemExit as ending:
        return int(ending.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def wait(process: int, seconds: float) -> int | None:
    """A process's exit code, negative where a signal ended it; None where it has not ended within ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def run(argv: tuple[str, ...], folder: Path, output: Path, kill: Mapping[str, Any] | None = None) -> int:
    """Run ``nnbox argv`` to its end; returns its exit code."""
    process = start(argv, folder, output, kill)
    code = wait(process, PATIENCE_SECONDS)
    if code is None:
        os.killpg(process, signal.SIGKILL)
    assert code is not None, f"nnbox {' '.join(argv)} does not end: {output.read_text()}"
    return code


def members(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, its_group, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(its_group) == group and state not in "ZX":
                found.append(int(entry.name))
    return found


def wait_until_gone(group: int) -> None:
    """Wait for the end of every process of a group; those that a killed command left have to see to it themselves."""
    end = time.monotonic() + PATIENCE_SECONDS
    while left := members(group):
        assert time.monotonic() < end, f"processes {left} outlive the command that started them"
        time.sleep(0.02)


def _without(*names: str) -> Callable[[Any], Any]:
    return lambda value: {key: kept for key, kept in value.items() if key not in names}


def _lines(content: bytes) -> bytes:
    lines = [_without("seconds", "batches_per_second", "ended")(json.loads(line)) for line in content.splitlines()]
    return json.dumps(lines).encode()


def _stage(content: bytes) -> bytes:
    return json.dumps(_without("seconds", "peak_memory_bytes")(json.loads(content))).encode()


def _run(content: bytes) -> bytes:
    """What is left of a case that an earlier, killed run predicted is its name."""
    found = _without("seconds")(json.loads(content))
    cases = [{"case": case["case"], "file": case["file"]} for case in found.pop("cases")]
    return json.dumps([found, cases]).encode()


def _contents(content: bytes) -> bytes:
    found = json.loads(content)
    return json.dumps({name: [size, digest] for name, (size, _, digest) in found["files"].items()}).encode()


TIMES = {"log.jsonl": _lines, "stage.json": _stage, "run.json": _run, "contents.json": _contents}
"""Files that hold times, or what a run happened to take, by nature: what of them has to be equal."""


def manifest(folder: Path) -> dict[str, str]:
    """Every file and folder below ``folder``, hidden ones too, with a hash of what has to be equal in it.

    All bytes, but for ``TIMES`` and for a lock's file, which says who held it last.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[f"{name}/"] = ""
        elif path.suffix == ".lock" and "locks" in path.parts:
            found[name] = ""
        else:
            content = path.read_bytes()
            found[name] = hashlib.sha256(TIMES.get(path.name, bytes)(content)).hexdigest()
    return found


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Names that only one side has, or with another content."""
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


def copy_state(source: Path, target: Path) -> None:
    """Replace a folder by a copy of another, times of change included."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
