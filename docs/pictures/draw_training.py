"""Draw docs/pictures/training.svg: the live display of a short run, as it stood in its last epoch.

A network is trained for real, on the synthetic cohort of ``nnbox demo``; about two minutes on two cores:

    python docs/pictures/draw_training.py
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.synthetic import write_acdc_cohort
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.execution.prepare import plan_dataset, preprocess_dataset
from nnunet_box.training.live import LiveDisplay
from nnunet_box.training.run_log import Epoch
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import Trainer
from nnunet_box.training.watching import Moment, RunFacts
from nnunet_box.workspace import Workspace

WIDTH, HEIGHT = 78, 24
CONFIGURATION = "3d_fullres"
# Rich's own format asks a server for its font.
FORMAT = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<title>The live display of nnbox train</title>
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Kept(LiveDisplay):
    """Keeps the moment in the middle of the last epoch instead of drawing."""

    def batch(self, moment: Callable[[], Moment]) -> None:
        """See ``Watch``."""
        now = moment()
        if now.done <= self.facts.batches // 2:
            self.moment = now

    def epoch(self, line: Epoch, seconds_left: float | None) -> None:
        """See ``Watch``."""
        if line.epoch != self.facts.epochs:
            super().epoch(line, seconds_left)
            print(line.epoch, line.loss, line.dice, file=sys.stderr)


def main() -> None:
    """Train and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batches-per-epoch", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("training.svg"))
    given = parser.parse_args()
    console = Console(record=True, file=io.StringIO(), width=WIDTH, height=HEIGHT, force_terminal=True)
    displays: list[LiveDisplay] = []

    @contextmanager
    def kept(facts: RunFacts, history: Sequence[Epoch]) -> Iterator[LiveDisplay]:
        displays.append(Kept(facts, history, console, lambda frame: None))
        yield displays[0]

    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace(Path(temporary), "acdc")
        write_acdc_cohort(workspace.root / "download", 10, 0, 2019, 48, (5, 6))
        adapter, folder = Acdc(), workspace.root / "datasets" / "acdc"
        adapter.convert(adapter.recognise(workspace.root / "download" / "database"), folder)
        dataset = load_dataset(folder)
        plan = plan_dataset(workspace, dataset, memory_gb=1.0)
        store = preprocess_dataset(workspace, dataset, plan, CONFIGURATION)
        settings = TrainingSettings(
            CONFIGURATION, 0, epochs=given.epochs, batches_per_epoch=given.batches_per_epoch, device="cpu"
        )
        fold = load_or_make_folds(workspace.splits, dataset)[0]
        print(plan.configuration_of(CONFIGURATION), file=sys.stderr)
        Trainer(plan, store, fold, workspace.fold(CONFIGURATION, 0), settings, show=kept).run(resume=False)
    console.print(displays[0].frame())
    title = f"nnbox train acdc --configuration {CONFIGURATION} --fold 0"
    given.output.write_text(console.export_svg(title=title, code_format=FORMAT), encoding="utf-8")


if __name__ == "__main__":
    main()
