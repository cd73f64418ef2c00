"""What ``nnbox train-all`` was asked for, and the command line of each network that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json
from nnunet_box.training.settings import HOW_IT_RUNS, TrainingSettings

LISTS = ("variants", "trackers")
"""Settings that are tuples, which JSON has not."""


class Request(BaseModel):
    """What ``nnbox train-all`` was asked for. configurations, folds: all where None. settings: those of the training
    runs, without configuration, fold and budget. budget_seconds: of each network; shared_seconds: of all together, as
    it was asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    configurations: tuple[str, ...] | None = None
    folds: tuple[int, ...] | None = None
    settings: dict[str, Any] = {}
    budget_seconds: float | None = None
    shared_seconds: float | None = None

    @classmethod
    def of(
        cls, settings: TrainingSettings, configurations: Sequence[str] | None, folds: Sequence[int] | None
    ) -> Request:
        """Of the settings all but configuration and fold count; their budget is of all networks together, and
        ``with_shares`` has still to share it out.
        """
        own = ("configuration", "fold", "budget_seconds")
        kept = {name: value for name, value in asdict(settings).items() if name not in own}
        return cls(
            configurations=None if configurations is None else tuple(configurations),
            folds=None if folds is None else tuple(folds),
            settings=kept | {name: list(kept[name]) for name in LISTS},
            shared_seconds=settings.budget_seconds,
        )

    def with_shares(self, networks: int, at_once: int, before: Request | None) -> Request:
        """The budget shared out evenly among networks, ``at_once`` of which train beside each other.

        before: the request of the run that this one goes on with. Its shares stay as they are, on whatever machine this
        one runs, as a network's budget is part of what it is.
        """
        if self.shared_seconds is None:
            return self
        if before is not None and before._asked() == self._asked():
            return self.model_copy(update={"budget_seconds": before.budget_seconds})
        share = self.shared_seconds * min(at_once, networks) / networks
        return self.model_copy(update={"budget_seconds": round(share, 3)})

    def training(self, configuration: str, fold: int) -> TrainingSettings:
        """The settings of one network."""
        values = self.settings | {name: tuple(self.settings.get(name, ())) for name in LISTS}
        return TrainingSettings(configuration, fold, **values | {"budget_seconds": self.budget_seconds})

    def _asked(self) -> dict[str, Any]:
        """What a rerun has to ask for as well to be the same one, wherever and however it runs."""
        settings = {name: value for name, value in self.settings.items() if name not in HOW_IT_RUNS}
        return self.model_dump(exclude={"budget_seconds"}) | {"settings": settings}

    @property
    def variants(self) -> tuple[str, ...]:
        """Named departures from the paper, the same for all networks."""
        return tuple(self.settings.get("variants", ()))


def read_request(file: Path) -> Request | None:
    """What was asked for last; None where nothing was.

    Raises
    ------
    InvalidData: the file is not as ``prepared_graph`` writes it.
    """
    if not file.is_file():
        return None
    try:
        return Request.model_validate(read_json(file, schema_version=1))
    except ValidationError as error:
        raise InvalidData(file, "a request", str(error), "Delete it and run nnbox train-all again.") from error


def training_arguments(settings: TrainingSettings) -> list[str]:
    """The options of ``nnbox train`` that make these settings; it continues what is unfinished."""
    values: list[tuple[str, object, object]] = [
        ("--configuration", settings.configuration, None),
        ("--fold", settings.fold, None),
        ("--variant", ",".join(settings.variants), ""),
        ("--seed", settings.seed, TrainingSettings.seed),
        ("--epochs", settings.epochs, None),
        ("--batches-per-epoch", settings.batches_per_epoch, TrainingSettings.batches_per_epoch),
        ("--budget", None if settings.budget_seconds is None else f"{settings.budget_seconds:.3f}s", None),
        ("--device", settings.device, TrainingSettings.device),
        ("--workers", settings.workers, None),
        ("--tracker", ",".join(settings.trackers), ""),
        ("--checkpoint-every", f"{settings.checkpoint_seconds:g}s", f"{TrainingSettings.checkpoint_seconds:g}s"),
    ]
    found = [word for name, value, default in values if value not in (None, default) for word in (name, str(value))]
    found += ["--full-precision"] if settings.full_precision else []
    return [*found, *(["--no-compile"] if not settings.compiled else []), "--resume"]
