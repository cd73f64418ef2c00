"""When the learning rate falls and when training ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""What a checkpoint may say of them."""

INITIAL_RATE = 3e-4
DROP = 0.2
PATIENCE_EPOCHS = 30
LEAST_RATE = 1e-6
MOST_EPOCHS = 1000
AVERAGE_WEIGHT = 0.93
POLY_POWER = 0.9
LEAST_IMPROVEMENT = 1e-3
"""What counts as improvement of the averaged loss (absolute; authors' code of April 2019)."""


@dataclass
class PlateauSchedule:
    """The paper's schedule: rate x 0.2 after 30 epochs without a better moving average of the training loss.

    Training ends when the rate falls below 1e-6, or after 1000 epochs. The average's weight (0.93) and the least
    improvement (1e-3, absolute) are those of the authors' code.
    """

    rate: Rate = INITIAL_RATE
    average: Finite | None = None
    best: Finite | None = None
    waited: Count = 0
    epochs_done: Count = 0
    most_epochs: int = MOST_EPOCHS

    def end_epoch(self, loss: float) -> None:
        """Take in an epoch's mean training loss."""
        self.epochs_done += 1
        self.average = loss if self.average is None else AVERAGE_WEIGHT * self.average + (1 - AVERAGE_WEIGHT) * loss
        if self.best is None or self.average < self.best - LEAST_IMPROVEMENT:
            self.best, self.waited = self.average, 0
            return
        self.waited += 1
        if self.waited > PATIENCE_EPOCHS:
            self.rate *= DROP
            self.waited = 0

    @property
    def finished(self) -> bool:
        return self.rate < LEAST_RATE or self.epochs_done >= self.most_epochs


@dataclass
class PolySchedule:
    """The later recipe's: the rate falls with power 0.9 over a fixed number of epochs (Isensee et al. 2021)."""

    peak: float
    most_epochs: int = MOST_EPOCHS
    epochs_done: Count = 0

    @property
    def rate(self) -> float:
        return float(self.peak * max(0.0, 1 - self.epochs_done / self.most_epochs) ** POLY_POWER)

    def end_epoch(self, loss: float) -> None:
        """The loss does not matter here."""
        del loss
        self.epochs_done += 1

    @property
    def finished(self) -> bool:
        return self.epochs_done >= self.most_epochs


@dataclass
class BudgetSchedule:
    """A named departure for people without a GPU: the whole course of the rate fits into a given number of seconds.

    The rate warms up over the first ``WARM_UP`` of the budget and then falls polynomially to zero as time runs out, so
    that a run on a slow or a busy machine still ends annealed and on time.
    """

    seconds: float
    peak: float
    spent: Seconds = 0.0
    epochs_done: Count = 0

    WARM_UP: ClassVar[float] = 0.03

    @property
    def rate(self) -> float:
        done = min(1.0, self.spent / self.seconds)
        return float(self.peak * min(1.0, (done + 1e-3) / self.WARM_UP) * max(1e-4, 1 - done) ** POLY_POWER)

    def end_epoch(self, loss: float) -> None:
        """An epoch is only a unit of report here."""
        del loss
        self.epochs_done += 1

    @property
    def finished(self) -> bool:
        return self.spent >= self.seconds
