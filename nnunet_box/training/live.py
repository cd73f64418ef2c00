"""The live display of a training run on a terminal: drawn by the training process itself, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nnunet_box.progress import duration_text
from nnunet_box.training.plot import AVERAGE, VALUES, plot
from nnunet_box.training.run_log import Epoch, moving_averages
from nnunet_box.training.watching import Moment, RunFacts, number, plain

LEAST_SECONDS = 0.5
"""Between two drawings."""
SHARE_OF_TIME = 0.004
"""What drawing may take of the time; where the terminal is slow, there are fewer drawings."""
PLOT_LINES = 6
OTHER_LINES = 6
"""Of the display beside the plot and the classes."""
AXIS = 8
"""Characters of a number beside the plot."""
CLASS_WIDTH = 38
"""Characters a class takes at least; where there is room for two, they stand beside each other."""
NAME_WIDTH, BAR_WIDTH = 18, 10
BLOCKS = " ▏▎▍▌▋▊▉█"


@contextmanager
def live_display(facts: RunFacts, history: Sequence[Epoch], console: Console) -> Iterator[LiveDisplay]:
    """Show a run until the block ends; what is printed meanwhile appears above. The last state stays on the screen."""
    with Live(console=console, auto_refresh=False) as live:

        def draw(frame: RenderableType) -> None:
            live.update(frame, refresh=True)

        display = LiveDisplay(facts, history, console, draw)
        display.show()
        try:
            yield display
        finally:
            display.show()


class LiveDisplay:
    """A ``Watch`` that draws. It is told of every batch and draws a few times a second at most.

    draw: puts a frame on the screen. clock: seconds.
    """

    def __init__(
        self,
        facts: RunFacts,
        history: Sequence[Epoch],
        console: Console,
        draw: Callable[[RenderableType], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.facts, self.history, self.console = facts, list(history), console
        self.moment: Moment | None = None
        self._draw, self._clock = draw, clock
        self._next = clock()

    def batch(self, moment: Callable[[], Moment]) -> None:
        """See ``Watch``."""
        if self._clock() >= self._next:
            began = self._clock()
            self.moment = moment()
            self.show(began)

    def epoch(self, line: Epoch, seconds_left: float | None) -> None:
        """See ``Watch``."""
        self.history.append(line)
        if self.moment is not None:
            done = self.facts.batches + self.facts.checks
            self.moment = replace(self.moment, done=done, seconds_left=seconds_left)

    def show(self, began: float | None = None) -> None:
        """Draw now. began: when the work for it did."""
        began = self._clock() if began is None else began
        self._draw(self.frame())
        now = self._clock()
        self._next = now + max(LEAST_SECONDS, (now - began) / SHARE_OF_TIME)

    def frame(self) -> RenderableType:
        """What is shown of the last moment that was asked for."""
        width, height = self.console.width, self.console.height
        dice = self._dice(width, height)
        room = height - OTHER_LINES - len(dice)
        lines: list[RenderableType] = [self._title(), self._bar(width), *self._loss(width, min(PLOT_LINES, room))]
        return Group(*lines, *dice, self._pace(), self._left())

    def _title(self) -> Text:
        return Text(f"{plain(self.facts.dataset)} {self.facts.name}", style="bold", no_wrap=True, overflow="ellipsis")

    def _bar(self, width: int) -> RenderableType:
        facts, moment = self.facts, self.moment
        epoch = moment.epoch if moment else len(self.history) + 1
        done = moment.done if moment else 0
        checking = done > facts.batches
        at, of, what = (done - facts.batches, facts.checks, "checked") if checking else (done, facts.batches, "batches")
        row = Table.grid(padding=(0, 1))
        row.add_row(
            Text(f"epoch {epoch}" + (f" of {facts.epochs}" if facts.epochs is not None else "")),
            ProgressBar(total=of, completed=at, width=max(10, min(40, width - 40))),
            Text(f"{at} of {of} {what}"),
        )
        return row

    def _loss(self, width: int, height: int) -> list[RenderableType]:
        """The curve ends in the mean so far of the epoch that has begun."""
        known = [line.loss for line in self.history if line.loss is not None]
        if self.moment is not None and self.moment.loss is not None and self.moment.epoch > len(self.history):
            known.append(self.moment.loss)
        if not known:
            return [Text("loss -", style="dim")]
        averages = [average for average in moving_averages(known) if average is not None]
        legend = Text.assemble(
            ("loss ", ""), (f"{known[-1]:.4f} ⠒", VALUES), "  average ", (f"{averages[-1]:.4f} ━", AVERAGE)
        )
        if len(known) < 2 or height < 2:
            return [legend]
        most, least = max(*known, *averages), min(*known, *averages)
        beside = [f"{most:.3f}", *[""] * (height - 2), f"{least:.3f}"]
        drawn = plot(known, averages, width - AXIS - 2, height)
        return [
            legend,
            *(Text.assemble((f"{axis:>{AXIS}} ", "dim"), line) for axis, line in zip(beside, drawn, strict=True)),
        ]

    def _dice(self, width: int, height: int) -> list[RenderableType]:
        """The mean of the last epoch that has one, and its classes as far as there is room for them."""
        line = next((line for line in reversed(self.history) if line.validation_dice is not None), None)
        if line is None:
            return [Text("validation Dice after the first epoch", style="dim")]
        mean = Text.assemble(
            f"validation Dice of epoch {line.epoch}  ",
            (f"{number(line.validation_dice)}", "bold"),
            f"  average {number(line.dice_average)}",
        )
        if not line.dice:
            return [mean]
        beside = max(1, width // CLASS_WIDTH)
        rows = max(1, height - OTHER_LINES - 3)
        shown = list(line.dice.items())
        left = len(shown) - beside * rows
        cells = [
            self._class(value, score) for value, score in shown[: beside * rows if left <= 0 else beside * (rows - 1)]
        ]
        lines: list[RenderableType] = []
        for first in range(0, len(cells), beside):
            lines.append(Text("  ").join(cells[first : first + beside]))
        if left > 0:
            lines.append(Text(f"  and {len(shown) - len(cells)} more classes in log.jsonl", style="dim"))
        return [mean, *lines]

    def _class(self, value: int, score: float | None) -> Text:
        name = Text(plain(self.facts.labels.get(value, f"{value}")))
        name.truncate(NAME_WIDTH, overflow="ellipsis", pad=True)
        eighths = round((score or 0.0) * BAR_WIDTH * 8)
        bar = "█" * (eighths // 8) + BLOCKS[eighths % 8].strip()
        return Text.assemble("  ", name, f" {number(score):>5} ", (f"{bar:<{BAR_WIDTH}}", "green"))

    def _pace(self) -> Text:
        moment = self.moment
        if moment is None:
            return Text("waiting for the first batch", style="dim")
        speed = "" if moment.batches_per_second is None else f"{moment.batches_per_second:.3g} batches/s, "
        return Text(f"rate {moment.rate:.1e}  {speed}{self.facts.batch_size} patches each, {self.facts.device}")

    def _left(self) -> Text:
        moment = self.moment
        if moment is None:
            return Text("")
        age = moment.checkpoint_age
        saved = "no checkpoint yet" if age is None else f"checkpoint {duration_text(age)} ago"
        if moment.seconds_left is None:
            return Text(saved)
        bound = "at most " if self.facts.epochs is not None else ""
        return Text(f"{bound}{duration_text(moment.seconds_left)} left  {saved}")
