"""A full disk, whatever the library calls it, is told with what is needed, what is free, and where."""

from __future__ import annotations

import errno
import os
import re

import pytest

from nnunet_box import disk
from nnunet_box.disk import disk_errors, in_units, tell_if_tight
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.files import continue_beside, fill_beside, write_beside

RUST = "Error while serializing: I/O error: No space left on device (os error 28)"


def test_needed_and_free_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1_300_000)
    with pytest.raises(NnboxError) as raised, write_beside(tmp_path / "w.bin", 125_000_000):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(raised.value) == (
        f"{tmp_path}/w.bin: could not be written (No space left on device). It needs about 125.0 MB in {tmp_path}, "
        "where 1.3 MB are free. Nothing was left half-written; free space or choose another --workspace, then run the "
        "same command again."
    )
    more = rf"It needs more than the 1\.3 MB that are free in {re.escape(str(tmp_path))}/deep\."
    with pytest.raises(NnboxError, match=more), write_beside(tmp_path / "deep" / "w.bin"):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_what_is_needed_is_asked_when_it_is_told(tmp_path):
    left = [3000.0, 2000.0]
    with (
        pytest.raises(NnboxError, match=r"It needs about 2\.0 kB in"),
        disk_errors(tmp_path / "data", lambda: sum(left)),
    ):
        left.remove(3000.0)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "free_then", "full"),
    [
        (RuntimeError(RUST), 1 << 30, True),
        (RuntimeError("Error while creating the NDArray"), 0, True),
        (OSError("524288 requested and 262144 written"), 0, True),
        (RuntimeError("Error while creating the NDArray"), 1 << 30, False),
        (ValueError("not a number"), 1 << 30, False),
    ],
)
@pytest.mark.parametrize("writer", [write_beside, fill_beside, continue_beside])
def test_libraries_that_hide_the_reason(tmp_path, monkeypatch, error, free_then, full, writer):
    def free_bytes(path):
        return free_then if list(tmp_path.rglob("half")) else 1 << 30

    monkeypatch.setattr(disk, "free_bytes", free_bytes)
    expected = "could not be written (No space left on device). It needs more than the 1.1 GB" if full else str(error)
    with pytest.raises(NnboxError if full else type(error), match=re.escape(expected)), writer(tmp_path / "a") as given:
        place = given[0] if isinstance(given, tuple) else given
        place.mkdir(exist_ok=True)
        (place / "half").touch()
        if writer is continue_beside:
            # What is whole stays, so room is made by others.
            monkeypatch.setattr(disk, "_room", lambda *_: " It needs more than the 1.1 GB")
        raise error


def test_other_errors_say_nothing_of_space(tmp_path):
    with (
        pytest.raises(NnboxError, match=r"a: could not be written \(Permission denied\)\. Nothing was left"),
        disk_errors(tmp_path / "a"),
    ):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(InvalidData), disk_errors(tmp_path / "a"):
        raise InvalidData("a", "b", "c", "d")


def test_told_beforehand(tmp_path, capsys):
    tell_if_tight(tmp_path / "not" / "there", 1e18, "Converting acdc")
    assert re.match(
        r"Converting acdc may need up to 1000000\.0 TB in \S+, where [\d.]+ .B are free\.", capsys.readouterr().err
    )
    tell_if_tight(tmp_path, 1, "Converting acdc")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (34_500_000, "34.5 MB"), (2e12, "2.0 TB")]
)
def test_units(count, text):
    assert in_units(count) == text
