"""An unfinished run, as its checkpoint has it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.training.checkpoint import AGAIN, STATE, checkpoint_state, restored
from nnunet_box.training.optimisation import Schedule
from nnunet_box.training.run_log import Progress
from nnunet_box.training.schedule import BudgetSchedule
from nnunet_box.training.settings import TrainingSettings


def unfinished_run(checkpoint: Path, settings: TrainingSettings, asked: Schedule) -> tuple[Schedule, Progress]:
    """Schedule and progress to go on with. asked: the schedule of a run that begins with these settings.

    Raises
    ------
    UsageError: the checkpoint is of a run with other settings. InvalidData: it is damaged.
    """
    state = checkpoint_state(checkpoint)
    if state.get("settings") != settings.identity():
        raise UsageError(
            f"{checkpoint} is of a run with other settings ({state.get('settings')}); use them, or --restart."
        )
    kept = restored(dict[str, Any], state.get("schedule"), checkpoint, "schedule")
    if ("seconds" in kept) != isinstance(asked, BudgetSchedule):
        raise UsageError(
            f"{checkpoint}: one of the two runs has a --budget and the other none; use the same, or --restart."
        )
    # A longer run than first asked for is a fair wish.
    wished = {name: value for name, value in asdict(asked).items() if name in ("most_epochs", "seconds", "peak")}
    schedule = restored(type(asked), kept | wished, checkpoint, "schedule")
    progress = restored(Progress, state.get("progress"), checkpoint, "progress")
    if len(progress.losses) > progress.batches_per_epoch:
        expected = f"losses of at most {progress.batches_per_epoch} batches"
        raise InvalidData(checkpoint / STATE, expected, f"{len(progress.losses)}", AGAIN)
    return schedule, progress
