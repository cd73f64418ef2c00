"""What a person sees of a run: how often it is drawn, in how much room, without colours, and plain lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console, RenderableType
from safetensors.torch import load_file

from nnunet_box.dataset.splits import Fold
from nnunet_box.training import live, watching
from nnunet_box.training.live import SHARE_OF_TIME, LiveDisplay, live_display
from nnunet_box.training.plot import BLANK, plot
from nnunet_box.training.run_log import Epoch
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import Trainer
from nnunet_box.training.watching import Moment, PlainLines, RunFacts, Watch
from tests.training.toys import toy_plan, toy_store

FACTS = RunFacts("acdc", "3d_fullres", 2, "cpu", 2, {1: "left ventricle", 2: "rod"}, 250, 50, 1000)
HISTORY = [
    Epoch(epoch, 1 / epoch, 1.2 / epoch, 0.8, 0.75, {1: 0.9, 2: None}, 3e-4, 250 * epoch, 2.5, 100.0, 1e9)
    for epoch in range(1, 8)
]
MOMENT = Moment(8, 120, 0.1234, 3e-4, 2.31, 42.0, 7384.0)


def drawn(display: LiveDisplay) -> list[str]:
    console = Console(file=io.StringIO(), width=display.console.width, force_terminal=False)
    console.print(display.frame())
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def display(width: int = 100, height: int = 40, facts: RunFacts = FACTS, history: Sequence[Epoch] = ()) -> LiveDisplay:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    return LiveDisplay(facts, history, console, lambda frame: None)


def test_a_frame_tells_where_the_run_is() -> None:
    shown = display(history=HISTORY)
    shown.moment = MOMENT
    text = "\n".join(drawn(shown))
    for words in (
        "acdc 3d_fullres fold 2",
        "epoch 8 of 1000",
        "120 of 250 batches",
        "loss 0.1234",
        "validation Dice of epoch 7  0.800  average 0.750",
        "rate 3.0e-04  2.31 batches/s",
        "at most 2:03:04 left  checkpoint 0:42 ago",
    ):
        assert words in text, words
    assert re.search(r"left ventricle +0.900 █████████", text) and re.search(r"rod +-", text)
    shown.moment = replace(MOMENT, done=251, checkpoint_age=None, seconds_left=None)
    text = "\n".join(drawn(shown))
    assert "1 of 50 checked" in text and "no checkpoint yet" in text and "left  " not in text


@pytest.mark.parametrize(("classes", "width", "height"), [(2, 60, 24), (13, 60, 24), (60, 60, 24), (13, 120, 24)])
def test_it_fits_a_terminal(classes: int, width: int, height: int) -> None:
    labels = {value: f"structure with a long name {value}" for value in range(1, classes + 1)}
    history = [replace(line, dice={value: value / 100 for value in labels}) for line in HISTORY]
    shown = display(width, height, replace(FACTS, labels=labels), history)
    shown.moment = replace(MOMENT, seconds_left=1e6)
    lines = drawn(shown)
    assert len(lines) < height and all(len(line) <= width for line in lines)
    told = sum(len(re.findall(r"0\.\d\d\d (?=[ █▏▎▍▌▋▊▉])", line)) for line in lines if line.startswith("  struct"))
    more = re.search(r"and (\d+) more classes", "\n".join(lines))
    assert told + (int(more[1]) if more else 0) == classes and told >= min(classes, 2)


def test_the_curve_falls_from_the_upper_left_and_the_average_is_a_line() -> None:
    losses = [1.0 - 0.9 * index / 99 for index in range(100)]
    above = plot(losses, [0.5] * 100, 20, 4)
    assert [line.plain[0] != " " for line in above] == [True, False, True, False]
    assert above[-1].plain[-1] != " " and above[0].plain[-1] == " "
    flat = [ord(one) - BLANK for one in above[2].plain[:8]]
    assert all(bits & 0x09 for bits in flat) or all(bits for bits in flat)
    assert len(plot([0.3], [0.3], 5, 2)) == 2, "one value alone"


@pytest.mark.parametrize("draw_seconds", [0.001, 0.03])
def test_drawing_takes_a_small_share_of_the_time(draw_seconds: float) -> None:
    """Of 10,000 batches of 10 ms, counted and not timed."""
    now, frames, asked = 0.0, 0, 0

    def draw(frame: RenderableType) -> None:
        nonlocal now, frames
        frames += 1
        now += draw_seconds

    def moment() -> Moment:
        nonlocal asked
        asked += 1
        return MOMENT

    shown = LiveDisplay(FACTS, HISTORY, Console(file=io.StringIO()), draw, clock=lambda: now)
    for _ in range(10_000):
        now += 0.01
        shown.batch(moment)
    assert asked == frames
    assert frames * draw_seconds <= 0.005 * now, "half a percent"
    assert frames <= now / 0.5 + 1
    assert frames >= min(now / 0.6, SHARE_OF_TIME * now / draw_seconds / 1.2), "it is drawn as often as it may"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fold]:
    folder = tmp_path_factory.mktemp("store")
    names = toy_store(folder, 3)
    return folder, Fold(train=names[:2], val=names[2:])


SETTINGS = TrainingSettings("2d", 0, epochs=2, batches_per_epoch=4, workers=0, device="cpu", checkpoint_seconds=1e6)


def test_neither_lines_nor_a_display_drawn_at_every_batch_change_a_weight(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def batch(self, moment: object) -> None: ...

        def epoch(self, line: Epoch, seconds_left: float | None) -> None: ...

    class Nothing(AbstractContextManager[Watch]):
        def __exit__(self, *_: object) -> None: ...

        def __enter__(self) -> Watch:
            return Silent()

    monkeypatch.setattr(live, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE_OF_TIME", 1e9)
    frames = io.StringIO()

    def every_batch(facts: RunFacts, history: Sequence[Epoch]) -> AbstractContextManager[Watch]:
        return live_display(facts, history, Console(file=frames, force_terminal=True, width=80, height=30))

    shows = {"silent": lambda *_: Nothing(), "lines": watching.shown, "live": every_batch}
    found = {
        name: load_file(Trainer(toy_plan(), *store, tmp_path / name, SETTINGS, show=show).run(resume=False))
        for name, show in shows.items()
    }
    assert all(torch.equal(found["silent"][name], found["lines"][name]) for name in found["silent"])
    assert all(torch.equal(found["silent"][name], found["live"][name]) for name in found["silent"])
    for words in ("1 of 4 batches", "4 of 4 batches", "epoch 2 of 2", "ball"):
        assert words in frames.getvalue(), words


def test_a_line_an_epoch_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines(FACTS)
    lines.epoch(replace(HISTORY[0], dice={1: 0.9, 2: 0.7}), 5400.0)
    many = {value: value / 100 for value in range(1, 9)}
    labels = {value: f"part {value}" for value in many} | {1: "\x1b[2Jone"}
    PlainLines(replace(FACTS, labels=labels, epochs=None)).epoch(replace(HISTORY[0], dice=many), 90.0)
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "3d_fullres fold 2 epoch 1: loss 1.0000, validation Dice 0.800 (left ventricle 0.900, rod 0.700), rate 3.0e-04,"
        " at most 1.5 h left"
    )
    assert "(worst: ?[2Jone 0.010, part 2 0.020, part 3 0.030)" in second and second.endswith(" 1.5 min left")


RUN = """
import sys, time
from pathlib import Path
from nnunet_box.cli import app
from nnunet_box.dataset.splits import Fold
from nnunet_box.interrupts import ended_by_signals
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import Trainer
from nnunet_box.progress import say
from tests.training.toys import toy_plan, toy_store

folder = Path(sys.argv[1])
names = toy_store(folder / "store", 3)
settings = TrainingSettings("2d", 0, epochs=1000, batches_per_epoch=4, workers=0, device="cpu")
trainer = Trainer(toy_plan(), folder / "store", Fold(train=names[:2], val=names[2:]), folder / "fold", settings)
end = trainer._end_epoch
def told(*values):
    end(*values)
    say(f"epoch {trainer.progress.epoch} is over")
trainer._end_epoch = told
try:
    with ended_by_signals():
        trainer.run(resume=False)
except KeyboardInterrupt:
    say("it was interrupted")
    sys.exit(130)
"""


def on_a_terminal(argv: Sequence[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """The process, and what it has written so far, again and again until it ends."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    written, end = b"", time.monotonic() + 600
    try:
        while time.monotonic() < end:
            ready, _, _ = select.select([ours], [], [], 0.2)
            try:
                more = os.read(ours, 1 << 16) if ready else b""
            except OSError:  # The other side is closed.
                break
            written += more
            yield process, written
        process.wait(600)
        yield process, written
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_ctrl_c_leaves_a_terminal_clean_and_without_colours(tmp_path: Path) -> None:
    environment = os.environ | {
        "TERM": "xterm-256color",
        "NO_COLOR": "1",
        "COLUMNS": "60",
        "LINES": "24",
        "PYTHONIOENCODING": "utf-8",
    }
    environment["PYTHONPATH"] = os.pathsep.join(path for path in (os.getcwd(), *sys.path) if path)
    argv = [sys.executable, "-c", RUN, str(tmp_path)]
    sent, text = False, ""
    for process, written in on_a_terminal(argv, environment):
        text = written.decode(errors="replace")
        if "epoch 3 is over" in text and not sent:
            sent = True
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130, text[-2000:]
    assert "\x1b[?25l" in text, "a live display hides the cursor"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "and shows it again"
    assert "SIGINT: training ends after this batch" in text and "it was interrupted" in text
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text[text.rindex("\x1b[?25h") :])
    assert last.strip() == "it was interrupted", "on a line of its own below the display"
    colours = [
        code for code in re.findall(r"\x1b\[([0-9;]*)m", text) if re.search(r"(^|;)([34]\d|9\d|38|48)(;|$)", code)
    ]
    assert not colours, colours[:3]
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"\r\n|\r", text)]
    assert max(map(len, plain)) <= 60
    assert plain.count("epoch 3 is over") == 1, "what is said stays above, once"


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        encoding = "utf-8"  # type: ignore[assignment]

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setenv("TERM", "xterm")
    assert watching.terminal() is not None
    monkeypatch.setenv("TERM", "dumb")
    assert watching.terminal() is None
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Screen, "encoding", "ascii")
    assert watching.terminal() is None
