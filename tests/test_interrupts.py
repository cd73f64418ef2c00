"""Signals end a command at once, or after what it has just begun."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from nnunet_box.interrupts import COME_BACK, Interrupted, ended_by_signals, exit_code, patient
from nnunet_box.progress import say


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, COME_BACK)])
def test_each_signal_has_its_exit_code(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name), ended_by_signals():
        os.kill(os.getpid(), number)
    assert exit_code() == code
    assert signal.getsignal(number) is before


def test_the_first_signal_waits_for_a_good_moment_and_the_second_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    with ended_by_signals():
        with pytest.raises(Interrupted), patient("the batch is finished") as check:
            check()
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Interrupted):
                check()
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second was only noted")
        assert capsys.readouterr().err == "SIGTERM: the batch is finished.\n"
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGUSR1)
            pytest.fail("the outer block no longer handles signals")


def test_a_signal_that_arrives_twice_is_an_echo_but_for_a_persons(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted), patient("the batch is finished") as check:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        check()
    assert capsys.readouterr().err.count("the batch is finished") == 1
    with pytest.raises(Interrupted), patient("the batch is finished"):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("a person who says it twice means it")
    cleaned = []
    with pytest.raises(Interrupted), ended_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)
    assert cleaned


class Raw(io.RawIOBase):
    """A file within whose next write a signal comes, once ``armed``."""

    def __init__(self) -> None:
        self.armed, self.written = False, b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self.armed:
            self.armed = False
            os.kill(os.getpid(), signal.SIGTERM)
        self.written += bytes(data)
        return len(data)


def test_a_signal_in_the_middle_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw()
    with pytest.raises(Interrupted), patient("the batch is finished") as check:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"))
        raw.armed = True
        say("an epoch is over")
        check()
    assert raw.written == b"an epoch is over\nSIGTERM: the batch is finished.\n"


def test_a_signal_in_the_middle_of_a_message_above_a_display() -> None:
    raw = Raw()
    screen = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
    live = Live("a display", console=Console(file=screen, force_terminal=True), auto_refresh=False)
    with live, pytest.raises(Interrupted), patient("the batch is finished") as check:
        raw.armed = True
        say("an epoch is over")
        check()
    screen.flush()
    assert raw.written.count(b"an epoch is over") == raw.written.count(b"SIGTERM: the batch is finished.") == 1


def test_a_signal_of_a_command_before_says_nothing_of_this_one() -> None:
    with pytest.raises(Interrupted), ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    with ended_by_signals():
        assert exit_code() == 130
