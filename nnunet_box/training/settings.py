"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nnunet_box.planning.variant import model_name

BATCHES_AN_EPOCH = 250


HOW_IT_RUNS = ("device", "workers", "checkpoint_seconds", "full_precision", "compiled", "trackers")
"""Settings that leave a run what it is."""


@dataclass(frozen=True)
class TrainingSettings:
    """One run. variants: named departures from the paper's recipe. epochs: at most so many, 1000 by default.
    budget_seconds: fit the run into this time instead. workers: processes that make batches, None chooses.
    checkpoint_seconds: least time between two checkpoints. full_precision: float32 alone, on a GPU too. compiled: on a
    GPU the network is compiled where that is possible. trackers: who is told of its epochs.
    """

    configuration: str
    fold: int
    variants: tuple[str, ...] = ()
    seed: int = 12345
    epochs: int | None = None
    batches_per_epoch: int = BATCHES_AN_EPOCH
    budget_seconds: float | None = None
    device: str = "auto"
    workers: int | None = None
    checkpoint_seconds: float = 60.0
    full_precision: bool = False
    compiled: bool = True
    trackers: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Name of the folder its folds lie in."""
        return model_name(self.configuration, self.variants)

    def of_the_result(self) -> dict[str, Any]:
        """What a finished network follows from."""
        return {name: value for name, value in asdict(self).items() if name not in HOW_IT_RUNS}

    def identity(self) -> dict[str, Any]:
        """What must stay the same for a checkpoint to be continued."""
        named = ("configuration", "fold", "seed", "batches_per_epoch")
        kept = {key: value for key, value in asdict(self).items() if key in named}
        return kept | {"variants": list(self.variants)}
