"""Experiment trackers beside a run's own ``log.jsonl``, through one small seam.

Each is told of a run's settings and of every epoch, in a thread of its own: a slow or broken one costs training
neither time nor its end.
"""

from __future__ import annotations

import importlib.util
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nnunet_box.errors import UsageError
from nnunet_box.interrupts import Interrupted
from nnunet_box.progress import say
from nnunet_box.training.run_log import LOG, Epoch

PACKAGES: dict[str, tuple[str, ...]] = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Tracker to the modules it needs, which the extra of its name installs."""
AGAIN_SECONDS = 60.0
"""After a failure, until a tracker is tried again."""
PASSWORD = re.compile(r"//[^/\s@]*@")
"""With a name, in an address."""
LAST_SECONDS = 15.0
"""A tracker may take at the end of a run."""

Ending = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins. folder: the fold's. shared: of all runs of the workspace. key:
    equal for runs that continue each other. settings, plan: of the run and its network, as JSON has them. labels:
    foreground values to names.
    """

    dataset: str
    model: str
    fold: int
    folder: Path
    shared: Path
    key: str
    settings: Mapping[str, Any]
    plan: Mapping[str, Any]
    labels: Mapping[int, str]

    def facts(self) -> dict[str, str]:
        """Settings and plan in one flat table."""
        return {
            "dataset": self.dataset,
            "model": self.model,
            **{f"{name}": _text(value) for name, value in self.settings.items()},
            **{f"plan.{name}": _text(value) for name, value in self.plan.items() if value is not None},
        }

    def numbers(self, line: Epoch) -> dict[str, float]:
        """An epoch's numbers by name; of a class by its label's name, with its value where names are not unique."""
        names = list(self.labels.values())
        dice = {
            f"dice/{label if names.count(label) == 1 else f'{value} {label}'}": line.dice.get(value)
            for value, label in self.labels.items()
        }
        plain = {name: value for name, value in asdict(line).items() if name not in ("epoch", "dice", "ended")}
        return {name: float(value) for name, value in (plain | dice).items() if value is not None}


def _text(value: object) -> str:
    return ",".join(map(_text, value)) if isinstance(value, (list, tuple)) else f"{value}"


class Tracker(Protocol):
    """Somewhere else where a run's epochs are kept. What it raises is told once and does not end training."""

    name: str

    def begin(self, lines: Sequence[Epoch]) -> None:
        """Bring what is kept of the run to these epochs, which are all it has come to. Called when it begins or goes
        on, and after a failure.
        """
        ...

    def epoch(self, line: Epoch) -> None:
        """Add the next epoch."""
        ...

    def end(self, how: Ending) -> None:
        """The run ends here, or can be continued later."""
        ...


def tracker_names(text: str | None) -> tuple[str, ...]:
    """``tensorboard,mlflow`` to its names, once each, in the order of ``PACKAGES``.

    Raises
    ------
    UsageError: an unknown name, or a package that is not installed.
    """
    given = {part.strip() for part in (text or "").split(",") if part.strip()}
    unknown = sorted(given - set(PACKAGES))
    if unknown:
        raise UsageError(f"--tracker {', '.join(unknown)}: {', '.join(PACKAGES)}.")
    names = tuple(name for name in PACKAGES if name in given)
    for name in names:
        missing = [module for module in PACKAGES[name] if importlib.util.find_spec(module) is None]
        if missing:
            raise UsageError(
                f"--tracker {name} needs {', '.join(missing)}, not installed here: pip install 'nnunet_box[{name}]'"
            )
    return names


def make_trackers(names: Sequence[str], run: TrackedRun) -> list[Tracker]:
    """The trackers of a run.

    Raises
    ------
    UsageError: as ``tracker_names``.
    """
    made: list[Tracker] = []
    for name in tracker_names(",".join(names)):
        if name == "tensorboard":
            from nnunet_box.training.tensorboard_tracker import TensorBoardTracker

            made.append(TensorBoardTracker(run))
        else:
            from nnunet_box.training.mlflow_tracker import MlflowTracker

            made.append(MlflowTracker(run))
    return made


@contextmanager
def tracked(trackers: Sequence[Tracker], lines: Sequence[Epoch]) -> Iterator[Callable[[Epoch], None]]:
    """Within the block a run that has come to ``lines`` is tracked; yields what is told of each further epoch."""
    followers = [_Follower(tracker, lines) for tracker in trackers]
    for follower in followers:
        follower.start()

    def tell(line: Epoch) -> None:
        for follower in followers:
            follower.told.put(line)

    how: Ending = "failed"
    try:
        yield tell
        how = "finished"
    except (Interrupted, KeyboardInterrupt):
        how = "interrupted"
        raise
    finally:
        for follower in followers:
            follower.told.put(how)
        end = time.monotonic() + LAST_SECONDS
        for follower in followers:
            follower.join(max(0.0, end - time.monotonic()))
            if follower.is_alive():
                say(f"{follower.tracker.name} has not answered in {LAST_SECONDS:g} s and is left behind.")


class _Follower(threading.Thread):
    """Tells a tracker of a run, and begins anew with all its epochs after a failure."""

    def __init__(self, tracker: Tracker, lines: Sequence[Epoch]) -> None:
        super().__init__(name=f"tracker {tracker.name}", daemon=True)
        self.tracker, self.lines = tracker, list(lines)
        self.told: queue.SimpleQueue[Epoch | Ending] = queue.SimpleQueue()
        self._current, self._warned = False, False
        """Whether the tracker has all epochs; whether a failure was told of."""
        self._next = 0.0

    def run(self) -> None:
        """Until the run ends."""
        self._try(None)
        while True:
            told = self.told.get()
            if isinstance(told, Epoch):
                self.lines.append(told)
            self._try(told)
            if not isinstance(told, Epoch):
                return

    def _try(self, told: Epoch | Ending | None) -> None:
        ends = told is not None and not isinstance(told, Epoch)
        if not self._current and time.monotonic() < self._next and not ends:
            return
        try:
            if not self._current:
                self.tracker.begin(self.lines)
                self._current = True
            elif isinstance(told, Epoch):
                self.tracker.epoch(told)
            if told is not None and not isinstance(told, Epoch):
                self.tracker.end(told)
        except Exception as error:  # Whatever a tracker's library raises.
            self._current, self._next = False, time.monotonic() + AGAIN_SECONDS
            if not self._warned:
                self._warned = True
                words = PASSWORD.sub("//", " ".join(f"{error}".split()))[:300] or type(error).__name__
                say(f"{self.tracker.name}: {words}. Training goes on and tries again later; {LOG} has every epoch.")
