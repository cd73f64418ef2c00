"""Training one network on one fold (paper, Method, Training)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_box.cpus import usable_threads
from nnunet_box.dataset.splits import Fold
from nnunet_box.disk import tell_if_tight
from nnunet_box.errors import InvalidData, NnboxError, UsageError
from nnunet_box.inference.torch_runtime import choose_device
from nnunet_box.interrupts import Interrupted, patient
from nnunet_box.network.unet import UNet, for_device
from nnunet_box.planning.plan import FIRST_STAGE, Plan
from nnunet_box.planning.variant import recipe
from nnunet_box.progress import say
from nnunet_box.temporary import recover_replaced
from nnunet_box.training.acceleration import Acceleration, room_for_cases
from nnunet_box.training.batches import NO_AUGMENTATION, TRAINING, VALIDATION, BatchSource, Key, batch_loader
from nnunet_box.training.budget import (
    FEW_UPDATES,
    SMALLEST_BATCH,
    batch_size_for,
    batches_an_epoch,
    seconds_a_sample,
)
from nnunet_box.training.checkpoint import (
    AGAIN,
    STATE,
    checkpoint_state,
    load_checkpoint,
    restored,
    save_checkpoint,
    save_weights,
    training_bytes,
)
from nnunet_box.training.optimisation import CLIP_NORM, clips, make_optimiser
from nnunet_box.training.run_log import LOG, Progress, write_log
from nnunet_box.training.schedule import BudgetSchedule
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.step import TrainingStep

VALIDATION_SHARE = 5
"""One validation batch for every five training batches: 50 for 250 (authors' code of April 2019)."""
BUDGET_VALIDATION_SHARE = 15
SAVES_AT_MOST = 0.05
"""Share of the time that checkpoints may take: where saving is slow, there are fewer of them."""
MOST_INTERVALS = 10
"""Of ``checkpoint_seconds`` that may pass between two checkpoints for that reason."""
WEIGHTS = "weights.safetensors"


class Trainer:
    """A network, its optimiser and its schedule, and where their state is kept.

    Parameters
    ----------
    folder: the fold's; receives ``weights.safetensors``, ``checkpoint/`` and ``log.jsonl``.
    store: the configuration's case store. fold: case ids. before: a cascade's store of the first stage's label maps.
    """

    def __init__(
        self, plan: Plan, store: Path, fold: Fold, folder: Path, settings: TrainingSettings, before: Path | None = None
    ) -> None:
        self.plan, self.store, self.fold, self.folder, self.settings = plan, store, fold, folder, settings
        self.configuration = plan.configuration_of(settings.configuration)
        self.previous, self.inputs = before, plan.inputs_of(settings.configuration)
        self.device = choose_device(settings.device)
        torch.manual_seed(settings.seed * 1000 + settings.fold)
        self.recipe = recipe(settings.variants)
        acceleration = Acceleration.of(self.device, settings.full_precision, settings.compiled)
        self.mixed = acceleration.mixed
        network = UNet(self.configuration, self.inputs, len(plan.labels), self.recipe)
        self.network = for_device(network, self.device, training=True, mixed=self.mixed)
        self.optimizer, self.schedule = make_optimiser(
            self.recipe, self.network, settings.epochs, settings.budget_seconds
        )
        self.clip = clips(self.recipe, settings.budget_seconds)
        self.progress = Progress(self.configuration.batch_size, settings.batches_per_epoch)
        full = FIRST_STAGE in plan.configurations and settings.configuration != FIRST_STAGE
        batch_dice = self.configuration.dimensions == 2 or full
        self.losses: list[Tensor] = []
        """Of the epoch that has begun."""
        self.started = self.saved = time.monotonic()
        self.interval = settings.checkpoint_seconds
        self.check: Callable[[], None] = lambda: None
        """Raises ``Interrupted`` where a signal asked for the end."""
        self.step = TrainingStep(self.network, self.device, self.recipe.loss, batch_dice, acceleration)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def run(self, resume: bool) -> Path:
        """Train to the end; return the weights' file.

        Raises
        ------
        UsageError: a checkpoint is there and neither ``resume`` nor a restart was asked for, or it is of another run.
        NnboxError: the loss is no longer a number.
        """
        recover_replaced(self.checkpoint)
        if (self.checkpoint / "state.json").exists():
            if not resume:
                raise UsageError(
                    f"{self.checkpoint} holds an unfinished run: --resume continues it, --restart begins anew."
                )
            self._restore()
        elif self.settings.budget_seconds is not None:
            self._fit_to_budget(self.settings.budget_seconds)
        weights = self.folder / WEIGHTS
        tell_if_tight(self.folder, training_bytes(self.network), f"Training {self.settings.model}")
        with patient("training ends after this batch and its checkpoint; once more ends it at once") as self.check:
            self._epochs()
            save_weights(weights, self.network)
            self.check()
        return weights

    def _fit_to_budget(self, seconds: float) -> None:
        """Measure the machine, choose batch size and epoch length; the time this takes counts as spent."""
        started = time.monotonic()
        size = (self.inputs, *self.configuration.patch_size)
        state = {name: value.clone() for name, value in self.network.state_dict().items()}

        def step(samples: int) -> None:
            image = torch.zeros((samples, *size), device=self.device)
            labels = torch.zeros((samples, *size[1:]), dtype=torch.int64, device=self.device)
            self.step.loss(image, labels).backward()  # type: ignore[no-untyped-call]
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        # A GPU has room for the plan's batch, and other sizes would be compiled for nothing.
        on_cpu = self.device.type == "cpu"
        sample_seconds = seconds_a_sample(step, SMALLEST_BATCH if on_cpu else self.configuration.batch_size)
        self.network.zero_grad(set_to_none=True)
        self.network.load_state_dict(state)
        batch = batch_size_for(seconds, sample_seconds, self.configuration.batch_size)
        length = batches_an_epoch(seconds, sample_seconds * batch, self.settings.batches_per_epoch)
        self.progress = replace(self.progress, batch_size=batch, batches_per_epoch=length)
        assert isinstance(self.schedule, BudgetSchedule)
        self.schedule.spent += time.monotonic() - started
        updates = max(0, int((seconds - self.schedule.spent) / (sample_seconds * batch)))
        say(
            f"Budget {seconds / 60:.1f} min: about {updates} updates, batches of {batch} (planned "
            f"{self.configuration.batch_size}), {sample_seconds * batch:.2f} s each"
        )
        if updates < FEW_UPDATES:
            say(
                f"So few updates teach little. Give more time, or plan smaller patches: nnbox plan {self.plan.dataset} "
                f"--memory-gb {self.plan.memory_gb / 4:g} (this plan: {self.plan.memory_gb:g})"
            )

    def _source(self, purpose: int) -> BatchSource:
        validation = purpose == VALIDATION
        return BatchSource(
            store=self.store,
            cases=tuple(self.fold.val if validation else self.fold.train),
            configuration=self.configuration,
            batch_size=self.progress.batch_size,
            mask_image=self.plan.use_nonzero_mask,
            seed=self.settings.seed,
            fold=self.settings.fold,
            purpose=purpose,
            recipe=NO_AUGMENTATION if validation else self.recipe,
            previous=self.previous,
            classes=len(self.plan.labels),
        )

    def _workers(self) -> int:
        if self.settings.workers is not None:
            return self.settings.workers
        cores = usable_threads()
        return min(8, cores) if self.device.type == "cuda" else min(2, cores - 1)

    def _epochs(self) -> None:
        length = self.progress.batches_per_epoch
        share = BUDGET_VALIDATION_SHARE if isinstance(self.schedule, BudgetSchedule) else VALIDATION_SHARE
        checks = max(1, length // share)
        batches = batch_loader(
            [self._source(purpose) for purpose in (TRAINING, VALIDATION)],
            self._keys(length, checks),
            self._workers(),
            self.device,
            room_for_cases(self.device, self.plan.memory_gb, self.mixed),
        )
        self.saved = time.monotonic()
        self.losses = list(torch.tensor(self.progress.losses, device=self.device))
        while not self.schedule.finished:
            self.started = time.monotonic() - self.progress.epoch_seconds
            loss = self._train_epoch(batches, length)
            overlap = self._validate_epoch(batches, checks)
            self._end_epoch(loss, overlap, time.monotonic() - self.started)
            self._pause()

    def _pause(self) -> None:
        """Between two batches: a checkpoint where one is due or a signal asked for the end."""
        if self.schedule.finished:
            return
        try:
            self.check()
        except Interrupted:
            self._save()
            raise
        if time.monotonic() - self.saved >= self.interval:
            self._save()

    def _keys(self, length: int, checks: int) -> Iterator[Key]:
        """An epoch's training batches, then its validation batches, and so on without end; of an epoch that has begun
        those that are left.
        """
        first, done = self.progress.epoch, len(self.progress.losses)
        for epoch in itertools.count(first):
            yield from ((TRAINING, epoch * length + number) for number in range(done if epoch == first else 0, length))
            yield from ((VALIDATION, epoch * checks + number) for number in range(checks))

    def _train_epoch(self, batches: Iterator[tuple[Tensor, Tensor]], count: int) -> float:
        """What is left of an epoch's updates, cut short where a budget ends; returns the whole epoch's mean loss."""
        self.network.train()
        clock = time.monotonic()
        for image, labels in itertools.islice(batches, count - len(self.losses)):
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.rate
            self.losses.append(self.step.gradients(image, labels))
            if self.clip:
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
            self.optimizer.step()
            if isinstance(self.schedule, BudgetSchedule):
                now = time.monotonic()
                self.schedule.spent += now - clock
                clock = now
                if self.schedule.finished:
                    break
            self._pause()
        mean = float(torch.stack(self.losses).mean())
        if mean != mean:
            raise NnboxError(
                f"{self.folder}: the training loss is not a number in epoch {self.progress.epoch}. "
                "Check the intensities with nnbox check; --resume continues from the last checkpoint."
            )
        return mean

    @torch.inference_mode()
    def _validate_epoch(self, batches: Iterator[tuple[Tensor, Tensor]], count: int) -> float:
        """Foreground Dice over pooled voxels of a few validation patches: an estimate, for the log and the person
        watching.
        """
        if self.schedule.finished and isinstance(self.schedule, BudgetSchedule):
            return float("nan")
        started = time.monotonic()
        self.network.eval()
        classes = len(self.plan.labels)
        counts = torch.zeros((classes, 3), dtype=torch.float64, device=self.device)
        for image, labels in itertools.islice(batches, count):
            self._pause()
            predicted = self.step.labels_of(image)
            for value in range(1, classes):
                truth, guess = labels == value, predicted == value
                counts[value] += torch.stack([(truth & guess).sum(), truth.sum(), guess.sum()])
        counts = counts[1:].cpu()
        if isinstance(self.schedule, BudgetSchedule):
            self.schedule.spent += time.monotonic() - started
        both = counts[:, 1] + counts[:, 2]
        dice = 2 * counts[:, 0] / both
        return float(dice[both > 0].mean()) if bool((both > 0).any()) else float("nan")

    def _end_epoch(self, loss: float, overlap: float, seconds: float) -> None:
        rate = self.schedule.rate
        self.schedule.end_epoch(loss)
        self.progress.epoch += 1
        self.progress.seconds += seconds
        self.progress.epoch_seconds = 0.0
        self.losses.clear()
        line = {
            "epoch": self.progress.epoch,
            "loss": loss,
            "validation_dice": overlap,
            "rate": rate,
            "seconds": seconds,
        }
        self.progress.history.append(line)
        write_log(self.folder / LOG, self.progress.history)
        say(
            f"{self.settings.model} fold {self.settings.fold} epoch {self.progress.epoch}: loss {loss:.4f}, "
            f"validation Dice {overlap:.3f}, rate {rate:.1e}, {self._time_left(seconds)}"
        )

    def _time_left(self, seconds: float) -> str:
        if isinstance(self.schedule, BudgetSchedule):
            return f"{max(0.0, self.schedule.seconds - self.schedule.spent) / 60:.1f} min left"
        epochs = self.schedule.most_epochs - self.schedule.epochs_done
        return f"at most {epochs * seconds / 3600:.1f} h left"

    def _save(self) -> None:
        began = time.monotonic()
        self.progress.losses = torch.stack(self.losses).tolist() if self.losses else []
        self.progress.epoch_seconds = began - self.started if self.losses else 0.0
        state = {
            "settings": self.settings.identity(),
            "schedule": asdict(self.schedule),
            "progress": asdict(self.progress),
        }
        save_checkpoint(self.checkpoint, self.network, self.optimizer, state)
        self.saved = time.monotonic()
        asked = self.settings.checkpoint_seconds
        self.interval = max(asked, min((self.saved - began) / SAVES_AT_MOST, MOST_INTERVALS * asked))

    def _restore(self) -> None:
        state = checkpoint_state(self.checkpoint)
        if state.get("settings") != self.settings.identity():
            raise UsageError(
                f"{self.checkpoint} is of a run with other settings ({state.get('settings')}); use them, or --restart."
            )
        schedule = restored(dict[str, Any], state.get("schedule"), self.checkpoint, "schedule")
        if ("seconds" in schedule) != isinstance(self.schedule, BudgetSchedule):
            raise UsageError(
                f"{self.checkpoint}: one of the two runs has a --budget and the other none; use the same, or --restart."
            )
        # A longer run than first asked for is a fair wish.
        asked = {
            name: value for name, value in asdict(self.schedule).items() if name in ("most_epochs", "seconds", "peak")
        }
        self.schedule = restored(type(self.schedule), schedule | asked, self.checkpoint, "schedule")
        self.progress = restored(Progress, state.get("progress"), self.checkpoint, "progress")
        if len(self.progress.losses) > self.progress.batches_per_epoch:
            expected = f"losses of at most {self.progress.batches_per_epoch} batches"
            raise InvalidData(self.checkpoint / STATE, expected, f"{len(self.progress.losses)}", AGAIN)
        load_checkpoint(self.checkpoint, self.network, self.optimizer)
        write_log(self.folder / LOG, self.progress.history)
        begun = f" and {len(self.progress.losses)} batches" if self.progress.losses else ""
        say(f"Continuing after epoch {self.progress.epoch}{begun}")
