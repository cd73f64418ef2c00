"""Killed at any moment, a run goes on where it was and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time

import pytest
from e2e_run import TINY, nnbox, start_nnbox

from nnunet_box.temporary import TEMPORARY_MARK

PATIENCE_SECONDS = 600


def hashes(workspace):
    bundle = json.loads((workspace / "bundles" / "acdc" / "bundle.json").read_text())
    return {entry["file"]: entry["sha256"] for member in bundle["members"] for entry in member["weights"]}


@pytest.mark.slow
def test_killed_and_continued_gives_the_same_weights(finished, tmp_path):
    workspace = tmp_path / "nnbox"
    shutil.copytree(finished / "datasets", workspace / "datasets")
    command = ["train-all", "acdc", *TINY, "--workspace", workspace]
    process = start_nnbox(*command, folder=tmp_path)
    started = time.monotonic()
    # Kill it in the middle: one network done, others not begun.
    while not (workspace / "models" / "acdc" / "2d" / "fold_0" / "stage.json").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (workspace / "bundles").exists()
    assert not (workspace / "models" / "acdc" / "3d_fullres" / "fold_1" / "stage.json").exists()
    first = workspace / "models" / "acdc" / "2d" / "fold_0" / "weights.safetensors"
    made = first.stat().st_mtime_ns

    ended = nnbox(*command)
    assert ended.code == 0, ended.err
    assert first.stat().st_mtime_ns == made
    assert hashes(workspace) == hashes(finished)
    assert not list((workspace / "models").rglob(f"{TEMPORARY_MARK}*"))


@pytest.mark.slow
def test_interrupt_ends_with_130_and_says_how_to_go_on(finished, tmp_path):
    workspace = tmp_path / "nnbox"
    shutil.copytree(finished / "datasets", workspace / "datasets")
    shutil.copytree(finished / "preprocessed", workspace / "preprocessed")
    endless = ["--epochs", "1000", "--batches-per-epoch", "2", "--folds", "0", "--workers", "0", "--device", "cpu"]
    process = start_nnbox("train-all", "acdc", *endless, "--workspace", workspace, folder=tmp_path)
    started = time.monotonic()
    while not (workspace / "models" / "acdc" / "2d" / "fold_0" / "log.jsonl").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert "run the same command again" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_leaves_a_checkpoint(finished, tmp_path):
    """As a scheduler sends it: the workers get it too, and each process once more from its parent."""
    workspace = tmp_path / "nnbox"
    shutil.copytree(finished / "datasets", workspace / "datasets")
    shutil.copytree(finished / "preprocessed", workspace / "preprocessed")
    endless = ["--epochs", "1000", "--batches-per-epoch", "2", "--workers", "1", "--device", "cpu"]
    one = ["--configuration", "2d", "--fold", "0", "--checkpoint-every", "1h"]
    process = start_nnbox("train", "acdc", *one, *endless, "--workspace", workspace, folder=tmp_path)
    fold = workspace / "models" / "acdc" / "2d" / "fold_0"
    started = time.monotonic()
    while not (fold / "log.jsonl").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert (fold / "checkpoint" / "state.json").is_file()


def test_a_full_disk_leaves_nothing_under_a_final_name(download, tmp_path):
    def small_files_only() -> None:
        # Files may grow to 2 kB: what a full disk does to a write, without filling one.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    workspace = tmp_path / "nnbox"
    arguments = ["convert", "--challenge", "acdc", download / "database", "--workspace", workspace]
    process = start_nnbox(*arguments, folder=tmp_path, prepare=small_files_only)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, err
    assert out == ""
    assert "Traceback" not in err
    assert "could not be written" in err
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []
    assert nnbox(*arguments).code == 0
