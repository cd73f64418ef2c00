"""What a killed process left is told from what a living one is writing, goes, and loses nothing that was whole."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from nnunet_box.errors import NnboxError
from nnunet_box.files import continue_beside, remove_folder, remove_partial, write_beside, write_json, write_text
from nnunet_box.temporary import REPLACED_MARK, TEMPORARY_MARK, recover_replaced, sweep_left, temporary_place


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(target, *arguments) -> None:
    """Run a function in a process that ends by SIGKILL."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def write_half_and_die(path: Path) -> None:
    with write_beside(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def replace_and_die(path: Path, moves: int) -> None:
    """Die after so many of the two renames that replace a folder."""
    rename, done = Path.rename, []

    def counted(self: Path, target: Path) -> Path:
        if len(done) == moves:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(target)
        return rename(self, target)

    Path.rename = counted
    shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    with write_beside(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")


def test_half_of_a_file_goes_with_the_next_writing_of_it(tmp_path):
    write_text(tmp_path / "a.txt", "older")
    killed(write_half_and_die, tmp_path / "a.txt")
    assert len(names(tmp_path)) == 2
    assert (tmp_path / "a.txt").read_text() == "older"
    write_text(tmp_path / "b.txt", "another")
    assert len(names(tmp_path)) == 3, "of another file: it stays until somebody sweeps the folder"
    write_text(tmp_path / "a.txt", "newer")
    assert names(tmp_path) == ["a.txt", "b.txt"]


def test_sweeping_takes_what_is_left_and_spares_what_is_being_written(tmp_path):
    killed(write_half_and_die, tmp_path / "left.txt")
    (tmp_path / f"{TEMPORARY_MARK}of-an-older-version").write_text("half")
    with write_beside(tmp_path / "mine.txt") as mine:
        mine.write_text("mine")
        sweep_left(tmp_path)
        assert mine.read_text() == "mine"
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == ["mine.txt"]


def test_two_that_write_one_name_do_not_disturb_each_other(tmp_path):
    with write_beside(tmp_path / "one") as first:
        first.write_text("first")
        with write_beside(tmp_path / "one") as second:
            second.write_text("second")
        assert (tmp_path / "one").read_text() == "second"
    assert (tmp_path / "one").read_text() == "first"
    assert names(tmp_path) == ["one"]


def test_names_that_end_alike_are_not_each_others(tmp_path):
    killed(write_half_and_die, tmp_path / "my-a")
    recover_replaced(tmp_path / "a")
    assert len(names(tmp_path)) == 1
    recover_replaced(tmp_path / "nowhere" / "a")


@pytest.mark.parametrize(("moves", "kept"), [(0, "older"), (1, "new"), (2, "new")])
def test_a_folder_is_replaced_or_not_whenever_the_kill_comes(tmp_path, moves, kept):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "older").write_text("older")
    killed(replace_and_die, folder, moves)
    assert folder.exists() is (moves != 1)
    recover_replaced(folder)
    assert names(tmp_path) == ["folder"]
    assert names(folder) == [kept]


def test_an_older_folder_comes_back_where_the_new_one_is_gone(tmp_path):
    place = tmp_path / f"{TEMPORARY_MARK}01234567-folder"
    (place / f"{REPLACED_MARK}folder").mkdir(parents=True)
    sweep_left(tmp_path)
    assert names(tmp_path) == ["folder"]


def remove_and_die(folder: Path) -> None:
    shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    remove_folder(folder)


def test_a_folder_that_is_being_deleted_is_gone_at_once(tmp_path):
    (tmp_path / "store" / "case").mkdir(parents=True)
    killed(remove_and_die, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    sweep_left(tmp_path)
    assert names(tmp_path) == []


def test_a_place_that_is_swept_while_it_is_made_is_made_anew(tmp_path, monkeypatch):
    mkdir, made = Path.mkdir, []

    def swept_once(self, *arguments, **options):
        mkdir(self, *arguments, **options)
        if not made:
            made.append(self)
            sweep_left(tmp_path)

    monkeypatch.setattr(Path, "mkdir", swept_once)
    with temporary_place(tmp_path, "a") as place:
        assert place.is_dir() and place != made[0]


def convert_and_die(path: Path) -> None:
    with continue_beside(path) as (content, notes):
        (content / "case").write_text("whole")
        (notes / "case").write_text("noted")
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    killed(convert_and_die, tmp_path / "data")
    with continue_beside(tmp_path / "data") as (content, _):
        assert names(content) == ["case"]
        with pytest.raises(NnboxError, match="another process is writing it"), continue_beside(tmp_path / "data"):
            pass
        remove_partial(tmp_path / "data")
        assert names(content) == ["case"], "it is in use"
    assert names(tmp_path) == ["data"]
    killed(convert_and_die, tmp_path / "other")
    remove_partial(tmp_path / "other")
    assert names(tmp_path) == ["data"]


def test_json_replaces_what_was_there(tmp_path):
    write_json(tmp_path / "a.json", [1])
    write_json(tmp_path / "a.json", [2])
    assert (tmp_path / "a.json").read_text() == "[\n 2\n]\n"
    assert names(tmp_path) == ["a.json"]


def test_files_of_a_library_that_hides_them_follow_the_umask(tmp_path):
    umask = os.umask(0o027)
    try:
        with write_beside(tmp_path / "weights") as temporary:
            temporary.touch(0o600)
        with write_beside(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / "weights").touch(0o600)
    finally:
        os.umask(umask)
    for file in (tmp_path / "weights", tmp_path / "folder" / "weights"):
        assert file.stat().st_mode & 0o777 == 0o640
