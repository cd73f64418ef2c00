"""A run's epochs for TensorBoard, in the fold's folder.

Written by ``torch.utils.tensorboard``, which needs the package ``tensorboard``: the viewer itself, which whoever asks
for this wants anyway; tensorboardX would be a second package. Neither needs TensorFlow.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_box.progress import say
from nnunet_box.training.run_log import Epoch
from nnunet_box.training.trackers import Ending, TrackedRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes anew when a run begins or goes on: its events are those of its epochs, whatever an earlier, killed process
    has left.
    """

    name = "TensorBoard"

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.folder = run, run.folder / FOLDER
        self.writer: SummaryWriter | None = None
        self.said = False

    def begin(self, lines: Sequence[Epoch]) -> None:
        """See ``Tracker``."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is not None:
            self.writer.close()
            self.writer = None
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.writer = SummaryWriter(str(self.folder))
        facts = "\n".join(f"| {name} | {value} |" for name, value in self.run.facts().items())
        self.writer.add_text("run", f"| | |\n|---|---|\n{facts}", 0)
        for line in lines:
            self._add(line)
        self.writer.flush()
        if not self.said:
            self.said = True
            say(f"TensorBoard: tensorboard --logdir {self.run.folder.parent.parent}")

    def epoch(self, line: Epoch) -> None:
        """See ``Tracker``."""
        assert self.writer is not None
        self._add(line)
        self.writer.flush()

    def end(self, how: Ending) -> None:
        """See ``Tracker``. TensorBoard knows no endings."""
        del how
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _add(self, line: Epoch) -> None:
        assert self.writer is not None
        for name, value in self.run.numbers(line).items():
            self.writer.add_scalar(name, value, line.epoch, walltime=line.ended)
