"""Some mutants of ``mutate_volumes.py``, and that it notices what it looks for."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hostile_runs import MORE_THAN_GOOD, Ran, broken, faultless_run, message, run_forked
from mutator import FORMATS, KINDS, SHARES, mutant

MUTANTS, SEED = 36, 20


@pytest.mark.slow
def test_some_mutants_of_every_format() -> None:
    counted = faultless_run("mutate_volumes.py", MUTANTS, SEED)
    assert set(counted["formats"]) == set(FORMATS)
    for command in ("check", "convert", "predict"):
        assert counted["commands"][command]["refused"] and counted["commands"][command]["passed same"]


def test_a_mutant_follows_from_its_seed_and_number() -> None:
    numbers = [number for number in range(120) if mutant(3, number).kind != "bomb"]
    assert all(mutant(3, number) == mutant(3, number) for number in numbers[:20])
    assert len({tuple(sorted(mutant(3, number).files.items())) for number in numbers}) > 0.8 * len(numbers)
    assert {mutant(3, number).kind for number in range(120)} == {kind.name for kind in KINDS}
    assert set(SHARES) == set(FORMATS)


def crash(arguments: object) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def hang(arguments: object) -> int:
    time.sleep(60)
    return 0


def hoard(arguments: object) -> int:
    held = bytearray(os.urandom(1 << 20)) * ((MORE_THAN_GOOD >> 20) + 50)
    return len(held) * 0


def stumble(arguments: object) -> int:
    raise KeyError("nobody foresaw it")


def speak(arguments: object) -> int:
    print("nnbox: a.nii: expected this; found that.", file=sys.stderr)
    return 3


def leave(arguments: object) -> int:
    os._exit(0)


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (crash, "crashed: signal 11"),
        (hang, "hung"),
        (hoard, "over memory"),
        (stumble, "crashed: traceback"),
        (leave, "crashed: exited"),
        (speak, None),
    ],
)
def test_what_no_input_may_bring_about_is_noticed(tmp_path: Path, call, outcome: str | None) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    (good,) = run_forked([[]], tmp_path / "good", call=speak)
    (ran,) = run_forked([[]], tmp_path / "bad", seconds=2 if call is hang else 60, call=call)
    found = broken(ran, good.peak)
    assert found == outcome or (outcome is not None and found is not None and found.startswith(outcome))


def test_a_child_that_dies_has_run_what_came_before(tmp_path: Path) -> None:
    def call(arguments: list[str]) -> int:
        return crash(arguments) if arguments == ["second"] else speak(arguments)

    first, second = run_forked([["first"], ["second"], ["third"]], tmp_path, call=call)
    assert (first.code, first.ended, first.err.split()[0]) == (3, "ended", "nnbox:")
    assert (second.code, second.ended) == (None, "signal 11")


def test_a_message_that_blames_memory_is_noticed() -> None:
    assert str(broken(Ran(1, "", "nnbox: x: not enough memory for it.", "ended", 0), 0)).startswith("over memory")


def test_only_a_message_is_one() -> None:
    told = "nnbox: a: expected b; found c. d"
    assert message(Ran(1, "", "", "ended", 0)) is message(Ran(1, "", "KeyError: 3\n", "ended", 0)) is None
    assert message(Ran(3, "", f"a warning\n{told}\n", "ended", 0)) == told
