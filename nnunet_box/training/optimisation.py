"""Which optimiser and schedule a run has: the paper's, the later recipe's, or a budget's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nnunet_box.planning.variant import Recipe
from nnunet_box.training.muon import Muon
from nnunet_box.training.schedule import MOST_EPOCHS, BudgetSchedule, PlateauSchedule, PolySchedule

WEIGHT_DECAY = 3e-5
BUDGET_PEAK_RATE = 3e-3
SGD_RATE = 1e-2
SGD_MOMENTUM = 0.99
CLIP_NORM = 12.0

Schedule = PlateauSchedule | PolySchedule | BudgetSchedule


def make_optimiser(
    recipe: Recipe, network: nn.Module, epochs: int | None, budget_seconds: float | None
) -> tuple[torch.optim.Optimizer, Schedule]:
    """The paper's Adam with its plateau schedule, SGD with a polynomial one, or what a budget replaces them by.

    A budget replaces every schedule, and Adam, which is too slow for it, but not an optimiser that was asked for.
    """
    optimiser: torch.optim.Optimizer
    # On a GPU one kernel moves all weights; on a CPU the default is as good.
    fused = any(parameter.is_cuda for parameter in network.parameters()) or None
    if recipe.optimiser == "sgd-poly":
        optimiser = torch.optim.SGD(
            network.parameters(),
            lr=SGD_RATE,
            momentum=SGD_MOMENTUM,
            nesterov=True,
            weight_decay=WEIGHT_DECAY,
            fused=fused,
        )
        if budget_seconds is None:
            return optimiser, PolySchedule(SGD_RATE, most_epochs=epochs or MOST_EPOCHS)
        return optimiser, BudgetSchedule(budget_seconds, SGD_RATE)
    if budget_seconds is not None:
        return Muon(network), BudgetSchedule(budget_seconds, BUDGET_PEAK_RATE)
    # amsgrad and coupled decay (L2) as in the authors' code of April 2019.
    optimiser = torch.optim.Adam(network.parameters(), weight_decay=WEIGHT_DECAY, amsgrad=True, fused=fused)
    return optimiser, PlateauSchedule(most_epochs=epochs or MOST_EPOCHS)


def moment_names(optimiser: torch.optim.Optimizer, group: Mapping[str, Any]) -> set[str]:
    """What an optimiser of ``make_optimiser`` keeps of every parameter of a group, once it has taken a step."""
    if isinstance(optimiser, torch.optim.SGD):
        return {"momentum_buffer"}
    if isinstance(optimiser, Muon):
        return {"momentum"} if group["orthogonal"] else {"step", "mean", "square"}
    return {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def clips(recipe: Recipe, budget_seconds: float | None) -> bool:
    """Whether gradients are clipped; the paper's run does without."""
    return recipe.optimiser == "sgd-poly" or budget_seconds is not None
