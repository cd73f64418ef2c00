"""Measuring a machine, so that a run fits into a given time."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from nnunet_box.planning.plan import Plan
from nnunet_box.progress import say
from nnunet_box.training.budget import (
    FEW_UPDATES,
    SMALLEST_BATCH,
    batch_size_for,
    batches_an_epoch,
    seconds_a_sample,
)
from nnunet_box.training.run_log import Progress
from nnunet_box.training.schedule import BudgetSchedule
from nnunet_box.training.step import TrainingStep


def fit_to_budget(
    plan: Plan, configuration: str, step: TrainingStep, schedule: BudgetSchedule, progress: Progress
) -> Progress:
    """Choose batch size and epoch length, up to those of ``progress``, for the budget of ``schedule``. The time that
    measuring takes counts as spent; the network stays as it was.
    """
    started = time.monotonic()
    size = (plan.inputs_of(configuration), *plan.configuration_of(configuration).patch_size)
    state = {name: value.clone() for name, value in step.network.state_dict().items()}

    def update(samples: int) -> None:
        image = torch.zeros((samples, *size), device=step.device)
        labels = torch.zeros((samples, *size[1:]), dtype=torch.int64, device=step.device)
        step.loss(image, labels).backward()  # type: ignore[no-untyped-call]
        if step.device.type == "cuda":
            torch.cuda.synchronize()

    # A GPU has room for the plan's batch, and other sizes would be compiled for nothing.
    sample_seconds = seconds_a_sample(update, SMALLEST_BATCH if step.device.type == "cpu" else progress.batch_size)
    step.network.zero_grad(set_to_none=True)
    step.network.load_state_dict(state)
    batch = batch_size_for(schedule.seconds, sample_seconds, progress.batch_size)
    length = batches_an_epoch(schedule.seconds, sample_seconds * batch, progress.batches_per_epoch)
    schedule.spent += time.monotonic() - started
    updates = max(0, int((schedule.seconds - schedule.spent) / (sample_seconds * batch)))
    say(
        f"Budget {schedule.seconds / 60:.1f} min: about {updates} updates, batches of {batch} (planned "
        f"{progress.batch_size}), {sample_seconds * batch:.2f} s each"
    )
    if updates < FEW_UPDATES:
        say(
            f"So few updates teach little. Give more time, or plan smaller patches: nnbox plan {plan.dataset} "
            f"--memory-gb {plan.memory_gb / 4:g} (this plan: {plan.memory_gb:g})"
        )
    return replace(progress, batch_size=batch, batches_per_epoch=length)
