"""Kill every command of the chain at random points, run it again, and compare all files with those of a calm run.

    python tests/reliability/kill_chain.py --kills 100 --seed 1

prints one line a round to stderr and a JSON summary to stdout; exit code 1 where a kill was not survived.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chain_stages import (
    PATIENCE_SECONDS,
    STAGES,
    Stage,
    copy_state,
    differences,
    load_libraries,
    make_download,
    manifest,
    run,
    start,
    wait,
    wait_until_gone,
)

KILLS_A_ROUND = 3
"""At most, before the command is left to finish and its files are compared."""
LONGEST_DELAY = 0.03
"""Seconds from an event to the kill: long enough to fall into the middle of a write."""
KINDS = [(trigger, whom) for trigger in ("event", "time") for whom in ("group", "main")]


@dataclass(frozen=True)
class Calm:
    """A command's run that nobody disturbed. seconds: it took. events: what it did to files. files: see ``manifest``,
    of the state after it.
    """

    seconds: float
    events: int
    files: dict[str, str]


@dataclass
class Result:
    """What became of a stage's kills. lost_epochs: most that were logged and had to be trained again after one."""

    stage: str
    seconds: float
    events: int
    kills: int = 0
    survived: int = 0
    rounds: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    lost_epochs: int = 0
    problems: list[str] = field(default_factory=list)


class Chain:
    """A folder with ``download/`` and ``state/``, in which the commands are run, one after the other.

    The calm run is in the same place as the disturbed ones, so that files that name their sources are equal too.
    """

    def __init__(self, folder: Path, stages: Sequence[Stage] = STAGES, words: Path | None = None) -> None:
        self.folder, self.stages, self.words = folder, stages, words or folder / "words.txt"
        self.state, self.before, self.after = folder / "state", folder / "before", folder / "after"
        self.counter = self.words.with_name("events")
        make_download(folder)

    def hook(self, at: int = 0, whom: str = "group", delay: float = 0.0) -> dict[str, Any]:
        self.counter.unlink(missing_ok=True)
        state = f"{self.state}{os.sep}"
        return {"folder": state, "counter": str(self.counter), "at": at, "whom": whom, "delay": delay}

    def calm(self) -> dict[str, Calm]:
        """Run the chain undisturbed."""
        self.begin()
        found = {}
        for stage in self.stages:
            started = time.monotonic()
            self.succeed(stage, self.hook())
            seconds = time.monotonic() - started
            found[stage.name] = Calm(seconds, self.counter.stat().st_size, manifest(self.state))
        return found

    def disturbed(self, calm: dict[str, Calm], kills: dict[str, int], seed: int) -> list[Result]:
        """Run it again, killing each command as often as ``kills`` says."""
        self.begin()
        return [
            self._disturb(stage, calm[stage.name], kills.get(stage.name, 0), random.Random(f"{seed} {stage.name}"))
            for stage in self.stages
        ]

    def begin(self) -> None:
        """Nothing is done yet."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir()

    def succeed(self, stage: Stage, kill: dict[str, Any] | None = None) -> None:
        """Run a command to its end."""
        code = run(stage.argv, self.folder, self.words, kill)
        assert code == 0, f"{stage.name} ended with {code}: {self.words.read_text()}"

    def _disturb(self, stage: Stage, calm: Calm, kills: int, draw: random.Random) -> Result:
        result = Result(stage.name, round(calm.seconds, 2), calm.events)
        copy_state(self.state, self.before)
        # Every kind in turn, from one drawn to begin with.
        kinds = [
            KINDS[(first + number) % len(KINDS)] for first in [draw.randrange(len(KINDS))] for number in range(kills)
        ]
        while result.kills < kills:
            if result.rounds:
                copy_state(self.before, self.state)
            result.rounds += 1
            count = min(draw.randint(1, KILLS_A_ROUND), kills - result.kills)
            groups, done = [], 0
            while done < count:
                kind = kinds[result.kills + done]
                killed, group = self._kill(stage, calm, kind, draw)
                groups.append(group)
                if not killed:
                    break
                done += 1
                name = " ".join(kind)
                result.by_kind[name] = result.by_kind.get(name, 0) + 1
                self._note_loss(stage, result)
            problem = self._finish(stage, calm, groups)
            result.kills += done
            result.survived += 0 if problem else done
            if problem:
                result.problems.append(problem)
            print(
                f"{stage.name}: round {result.rounds}, {done} kills{': ' + problem if problem else ''}", file=sys.stderr
            )
        if not kills:
            self.succeed(stage)
        return result

    def _kill(self, stage: Stage, calm: Calm, kind: tuple[str, str], draw: random.Random) -> tuple[bool, int]:
        """Start a stage and kill it; whether the kill came before its end, and the group of its processes.

        Its next run begins at once, whatever its workers are doing.
        """
        trigger, whom = kind
        if trigger == "event":
            delay = draw.choice([0.0, draw.uniform(0, LONGEST_DELAY)])
            process = start(stage.argv, self.folder, self.words, self.hook(draw.randint(1, calm.events), whom, delay))
            code = wait(process, PATIENCE_SECONDS)
        else:
            process = start(stage.argv, self.folder, self.words, self.hook())
            code = wait(process, draw.uniform(0, calm.seconds))
            if code is None:
                (os.kill if whom == "main" else os.killpg)(process, signal.SIGKILL)
                code = wait(process, PATIENCE_SECONDS)
        assert code in (0, -signal.SIGKILL), f"{stage.name} ended with {code}: {self.words.read_text()}"
        return code != 0, process

    def _finish(self, stage: Stage, calm: Calm, groups: list[int]) -> str | None:
        """Run a stage to its end; what is wrong with it or its files, if anything."""
        code = run(stage.argv, self.folder, self.words)
        if code != 0:
            return f"ended with {code}: {self.words.read_text()[-600:]}"
        for group in groups:
            wait_until_gone(group)
        odd = differences(manifest(self.state), calm.files)
        return f"other files: {', '.join(odd[:8])}" if odd else None

    def _note_loss(self, stage: Stage, result: Result) -> None:
        """Compare the epochs that are logged with those of the checkpoint."""
        if not stage.name.startswith("train"):
            return
        for log in self.state.glob("nnbox/models/*/*/fold_*/log.jsonl"):
            checkpoint = log.with_name("checkpoint") / "state.json"
            if checkpoint.is_file() and not log.with_name("trained").exists():
                kept = json.loads(checkpoint.read_text())["progress"]["epoch"]
                result.lost_epochs = max(result.lost_epochs, len(log.read_text().splitlines()) - kept)


def shares(kills: int, stages: Sequence[Stage] = STAGES) -> dict[str, int]:
    """How many of ``kills`` each stage gets, in proportion to ``Stage.kills``."""
    whole = sum(stage.kills for stage in stages)
    given = {stage.name: kills * stage.kills // whole for stage in stages}
    for stage in sorted(stages, key=lambda stage: -(kills * stage.kills % whole))[: kills - sum(given.values())]:
        given[stage.name] += 1
    return given


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="Work here and keep it; a temporary folder by default.")
    parser.add_argument("--stages", help="Comma-separated; all by default. The first ones: each needs those before it.")
    given = parser.parse_args()
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="nnbox-kills-") as scratch:
        folder = (given.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        names = given.stages.split(",") if given.stages else [stage.name for stage in STAGES]
        chain = Chain(folder, [stage for stage in STAGES if stage.name in names])
        results = chain.disturbed(chain.calm(), shares(given.kills, chain.stages), given.seed)
    kills, survived = sum(result.kills for result in results), sum(result.survived for result in results)
    stages = [vars(result) for result in results]
    print(json.dumps({"seed": given.seed, "kills": kills, "survived": survived, "stages": stages}, indent=1))
    return 0 if survived == kills else 1


if __name__ == "__main__":
    sys.exit(main())
