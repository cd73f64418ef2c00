"""Our side of training; see ``compare.py``."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
from measuring import Taken
from training import accuracy

Work = Callable[[], Taken]
SAMPLES_A_TURN = 14


def batches_a_turn(batch_size: int) -> int:
    """So many batches, at least 2, that a turn has about ``SAMPLES_A_TURN`` samples."""
    return max(2, SAMPLES_A_TURN // batch_size)


def epoch(batch_size: int | None, budget_seconds: float | None) -> Work:
    """Seconds of one batch of the trainer's own epoch: loader and its processes, augmentation, loss, update.

    The loader's processes have batches ready at the start of a turn, as in the middle of an epoch, and make as many as
    the turn takes.
    """
    from training.hippocampus import plan, write_store

    from nnunet_box.dataset.splits import Fold
    from nnunet_box.training.batches import batch_loader
    from nnunet_box.training.settings import TrainingSettings
    from nnunet_box.training.trainer import Trainer

    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    names = write_store(folder / "store")
    settings = TrainingSettings("3d_fullres", 0, budget_seconds=budget_seconds, device="cpu")
    trainer = Trainer(plan(), folder / "store", Fold(train=names, val=names), folder / "fold", settings)
    trainer.progress.batch_size = batch_size or trainer.progress.batch_size
    count = batches_a_turn(trainer.progress.batch_size)
    batches = batch_loader(
        [trainer._source(0)], ((0, number) for number in itertools.count()), trainer._workers(), trainer.device
    )

    def work() -> Taken:
        assert kept  # the folder is removed with it
        trainer.losses.clear()  # An epoch begins; otherwise it goes on with the updates that it has.
        started = time.perf_counter()
        trainer._train_epoch(batches, count)
        seconds = (time.perf_counter() - started) / count
        if len(trainer.losses) != count:
            raise RuntimeError(f"{len(trainer.losses)} updates instead of {count}")
        return Taken(seconds=seconds, facts={"optimiser's step": f"{100 * _step_seconds(trainer) / seconds:.1f} %"})

    return work


def _step_seconds(trainer: Any) -> float:
    """One update with the last gradients, after a turn's clock has stopped."""
    started = time.perf_counter()
    trainer.optimizer.step()
    return time.perf_counter() - started


def accuracy_row() -> Work:
    """The trained network's Dice."""
    accuracy.with_our_python("prepare")
    return lambda: accuracy.once("ours", accuracy.train)


ROWS: dict[str, Callable[[], Work]] = {
    "training-batches": lambda: epoch(None, None),
    "budget-batches": lambda: epoch(2, 1e9),
    "accuracy": accuracy_row,
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
