"""Signals end a command at once, or after what it has just begun."""

from __future__ import annotations

import os
import signal

import pytest

from nnunet_box.interrupts import COME_BACK, Interrupted, ended_by_signals, exit_code, patient


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
            assert "SIGTERM: the batch is finished." in capsys.readouterr().err
            with pytest.raises(Interrupted):
                check()
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second was only noted")
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGUSR1)
            pytest.fail("the outer block no longer handles signals")


def test_a_signal_that_arrives_twice_is_an_echo_but_for_a_persons(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted), patient("the batch is finished") as check:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert capsys.readouterr().err.count("the batch is finished") == 1
        check()
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


def test_a_signal_of_a_command_before_says_nothing_of_this_one() -> None:
    with pytest.raises(Interrupted), ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    with ended_by_signals():
        assert exit_code() == 130
