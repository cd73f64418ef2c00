"""Expected errors end in one line on stderr and the documented exit code, unexpected ones in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_box import errors
from nnunet_box.cli import app as application


def run(monkeypatch, *arguments: str) -> int:
    """Exit code of ``nnbox`` with these arguments, run in this process."""
    monkeypatch.setattr(sys, "argv", ["nnbox", *arguments])
    with pytest.raises(SystemExit) as ending:
        application.main()
    return 0 if ending.value.code is None else int(ending.value.code)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NnboxError("the disk is full"), 1),
        (errors.UsageError("no such thing"), 2),
        (errors.InvalidData("a.nii.gz", "a volume", "nothing", "Copy it."), 3),
        (errors.EngineUnavailable("start docker"), 4),
        (errors.VerificationFailed("wrong names"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_code_and_one_line(monkeypatch, capsys, error, code):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("nnunet_box.cli.doctor.examine", fails)
    assert run(monkeypatch, "doctor") == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    if str(error):
        assert lines == [f"nnbox: {error}"]


def test_a_bug_is_not_hidden_behind_one_line(monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("nnunet_box.cli.doctor.examine", fails)
    monkeypatch.setattr(sys, "argv", ["nnbox", "doctor"])
    with pytest.raises(ZeroDivisionError):
        application.main()


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["doctor", "--no-such-option"],
        ["convert"],
        ["plan", "no-such-dataset"],
        ["train", "x", "--fold", "a"],
    ],
)
def test_wrong_usage_is_2(monkeypatch, tmp_path, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_unknown_layout_is_3_and_names_the_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "notes.txt").write_text("not ACDC")
    assert run(monkeypatch, "convert", "--challenge", "acdc", "download") == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "download" in captured.err
    assert not (tmp_path / "nnbox" / "datasets" / "acdc").exists()


def test_unknown_challenge_lists_the_known(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "convert", "--challenge", "imaginary", ".") == 2
    assert "acdc" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_traceback(tmp_path, unbuffered):
    """``nnbox doctor | head -1``, with a reader that is gone before the first byte; a short answer may still be in a
    buffer when the command is over.
    """
    reader, writer = os.pipe()
    os.close(reader)
    command = [Path(sys.executable).with_name("nnbox"), "doctor", "--json"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    os.close(writer)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert done.returncode == 1
