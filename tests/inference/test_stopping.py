"""SIGTERM and SIGINT, whatever the program is doing: an end within five seconds, and nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from front_end_samples import make_model, record_of, write_image

from nnunet_box.dataset.untrusted import check_gzip
from nnunet_box.temporary import TEMPORARY_MARK

MOST_SECONDS = 5
HERE = Path(__file__).parent


def wait_for(condition, process: subprocess.Popen, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.02)


def end(process: subprocess.Popen, number: signal.Signals) -> tuple[int, str, float]:
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    return process.returncode, err, time.monotonic() - started


def start(*command: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def folders(tmp_path: Path) -> list[object]:
    make_model(tmp_path / "model")
    for number in range(40):
        write_image(tmp_path / "in" / f"case{number:02d}_0000.nii.gz", number, (8, 30, 30))
    return ["--bundle", tmp_path / "model", "--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_between_cases(folders, tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    process = start("-m", "nnunet_box.inference.entry", *folders, "--no-mirroring")
    wait_for(lambda: len(list(out.glob("case*.nii.gz"))) >= 2, process)
    returned, err, seconds = end(process, number)
    assert (returned, seconds < MOST_SECONDS) == (code, True), (seconds, err)
    assert f"stopped by {number.name}" in err
    assert "Traceback" not in err
    done = sorted(path.name for path in out.glob("case*.nii.gz"))
    assert 2 <= len(done) < 40
    for name in done:
        check_gzip(out / name)
    assert not list(out.glob(f"{TEMPORARY_MARK}*"))
    run = record_of(out)
    assert run["state"] == "interrupted"
    assert [case["file"] for case in run["cases"]] == done


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_middle_of_one_long_call(folders, tmp_path: Path, number: signal.Signals) -> None:
    process = start(HERE / "slow_entry.py", tmp_path / "computing", *folders)
    wait_for((tmp_path / "computing").exists, process)
    # What a server's thread might be writing at that moment.
    (tmp_path / "out" / f"{TEMPORARY_MARK}12345678-case00.nii.gz").write_bytes(b"half")
    time.sleep(1.0)
    returned, err, seconds = end(process, number)
    assert (returned, seconds < MOST_SECONDS) == (128 + number, True), (seconds, err)
    assert f"stopped by {number.name}" in err
    assert not list((tmp_path / "out").glob(f"{TEMPORARY_MARK}*"))


@pytest.mark.slow
def test_after_sigkill_the_same_command_goes_on(folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("-m", "nnunet_box.inference.entry", *folders, "--no-mirroring")
    wait_for(lambda: len(list(out.glob("case*.nii.gz"))) >= 2, process)
    process.kill()
    process.wait()
    for file in list((tmp_path / "in").glob("case*"))[6:]:
        file.unlink()
    kept = {path: path.read_bytes() for path in out.glob("case*.nii.gz")}
    assert record_of(out)["state"] == "running"
    (out / f"{TEMPORARY_MARK}12345678-case05.nii.gz").write_bytes(b"half")
    again = start("-m", "nnunet_box.inference.entry", *folders, "--no-mirroring", "--resume")
    assert again.wait(timeout=120) == 0
    assert not list(out.glob(f"{TEMPORARY_MARK}*"))
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert record_of(out)["state"] == "done"


def test_a_library_that_makes_an_error_of_the_signal_does_not_hide_it(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from nnunet_box.inference.stopping import Stopped, stop_on_signals
with stop_on_signals([Path(sys.argv[1])]):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    except Stopped as error:
        raise ImportError("initialization failed") from error
"""
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 143
    assert "stopped by SIGTERM" in ended.stderr and "Traceback" not in ended.stderr
