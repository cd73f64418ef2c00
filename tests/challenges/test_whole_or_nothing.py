"""A data set appears under its name whole or not at all: full disk, killed process, damaged download, overwriting."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import subprocess
import sys
import threading

import pytest

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.decathlon import Decathlon
from nnunet_box.dataset.dataset import find_dataset, load_dataset
from nnunet_box.errors import InvalidData, NnboxError, UsageError
from nnunet_box.files import PARTIAL_MARK, continue_beside
from nnunet_box.temporary import TEMPORARY_MARK

STOPS_AT_THE_THIRD_CASE = """
import sys, time
from pathlib import Path
from nnbox_challenges import conversion
from nnbox_challenges.acdc import Acdc

save, seen = conversion.save_slabs, []

def save_then_stop(*arguments):
    save(*arguments)
    seen.append(arguments)
    if len(seen) == 5:
        print("three", flush=True)
        time.sleep(600)

conversion.save_slabs = save_then_stop
Acdc().convert(Acdc().recognise(Path(sys.argv[1])), Path(sys.argv[2]))
"""

CONVERTS_ACDC = """
import sys
from pathlib import Path
from nnbox_challenges.acdc import Acdc
from nnunet_box.errors import NnboxError

try:
    Acdc().convert(Acdc().recognise(Path(sys.argv[1])), Path(sys.argv[2]))
except NnboxError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["os.fsync", "shutil.copyfile", "gzip.write"])
def test_full_disk(acdc, decathlon, tmp_path, monkeypatch, call):
    places = {"os.fsync": os, "shutil.copyfile": shutil, "gzip.write": gzip.GzipFile}
    monkeypatch.setattr(places[call], call.split(".")[1], full)
    adapter, source = (Acdc(), acdc) if call == "gzip.write" else (Decathlon(), decathlon)
    destination = tmp_path / "ws" / "datasets" / "mine"
    with pytest.raises(NnboxError, match=r"datasets/mine: could not be written \(No space left on device\)") as raised:
        adapter.convert(adapter.recognise(source), destination)
    assert raised.value.exit_code == 1
    assert list(destination.parent.iterdir()) == []


def test_full_disk_for_real(acdc, tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    script = 'mount -t tmpfs -o size=96k tmpfs "$1" || exit 77; "$2" -c "$3" "$4" "$1/acdc"; echo "code $?"; ls -A "$1"'
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare")
    arguments = [str(room), sys.executable, CONVERTS_ACDC, str(acdc)]
    done = subprocess.run(
        [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        text=True,
    )
    if "code" not in done.stdout:
        pytest.skip("no small file system can be mounted here")
    assert "No space left on device" in done.stdout
    assert "code 1\n" in done.stdout
    # what is whole waits for the next run, under no data set's name
    assert done.stdout.split("code 1\n")[1] in ("", f"{PARTIAL_MARK}acdc\n")


def test_full_disk_leaves_the_older_data_set(acdc, converted, monkeypatch):
    folder = converted(Acdc(), acdc)
    monkeypatch.setattr(gzip.GzipFile, "write", full)
    with pytest.raises(NnboxError):
        converted(Acdc(), acdc)
    assert len(load_dataset(folder).cases) == 10
    assert [path.name for path in folder.parent.iterdir()] == ["acdc"]


def test_killed_process_leaves_nothing_under_the_name_and_the_next_run_completes(acdc, tmp_path):
    destination = tmp_path / "ws" / "datasets" / "acdc"
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS_AT_THE_THIRD_CASE, str(acdc), str(destination)], stdout=subprocess.PIPE, text=True
    )
    alarm = threading.Timer(120, process.kill)
    alarm.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "three\n"
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
    assert not destination.exists()
    assert [path.name for path in destination.parent.iterdir()] == [f"{PARTIAL_MARK}acdc"]
    partial = destination.parent / f"{PARTIAL_MARK}acdc"
    assert len(list((partial / "notes").iterdir())) == 2
    assert len(list(partial.rglob("*.nii.gz"))) == 5
    with pytest.raises(UsageError, match="empty|none"):
        find_dataset(tmp_path / "ws", None)
    finished = {path.name: path.stat().st_ino for path in partial.rglob("patient001*.nii.gz")}

    Acdc().convert(Acdc().recognise(acdc), destination)
    assert len(load_dataset(destination).cases) == 10
    assert list(destination.parent.iterdir()) == [destination]
    taken = {path.name: path.stat().st_ino for path in destination.rglob("patient001*.nii.gz")}
    assert len(finished) == 4 and taken == finished


def test_two_processes_do_not_write_one_data_set(acdc, tmp_path):
    destination = tmp_path / "ws" / "acdc"
    with continue_beside(destination), pytest.raises(NnboxError, match="another process is writing it"):
        Acdc().convert(Acdc().recognise(acdc), destination)


def test_leftover_that_is_almost_complete_is_no_data_set(acdc, converted, tmp_path):
    folder = converted(Acdc(), acdc)
    shutil.copytree(folder, folder.with_name(f"{TEMPORARY_MARK}0123abcd-other"))
    assert find_dataset(tmp_path / "ws", None) == folder


def test_overwriting_replaces_the_whole_folder(acdc, converted):
    folder = converted(Acdc(), acdc)
    shutil.rmtree(acdc / "training" / "patient001")
    converted(Acdc(), acdc)
    assert [case.id for case in load_dataset(folder).cases][0] == "patient002_ED"
    assert not (folder / "imagesTr" / "patient001_ED_0000.nii.gz").exists()


def test_damage_in_the_last_case_leaves_the_older_data_set(acdc, converted):
    folder = converted(Acdc(), acdc)
    before = (folder / "cases.json").read_bytes()
    path = acdc / "testing" / "patient102" / "patient102_frame09.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidData):
        converted(Acdc(), acdc)
    assert (folder / "cases.json").read_bytes() == before
    assert sorted(path.name for path in folder.parent.iterdir()) == [f"{PARTIAL_MARK}acdc", "acdc"]
