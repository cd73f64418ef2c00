"""Training one network on one fold (paper, Method, Training)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nnunet_box.cpus import usable_threads
from nnunet_box.dataset.splits import Fold
from nnunet_box.disk import tell_if_tight
from nnunet_box.errors import NnboxError, UsageError
from nnunet_box.inference.torch_runtime import choose_device
from nnunet_box.interrupts import Interrupted, patient
from nnunet_box.network.unet import UNet, for_device
from nnunet_box.planning.plan import FIRST_STAGE, Plan
from nnunet_box.planning.variant import recipe
from nnunet_box.progress import say
from nnunet_box.temporary import recover_replaced
from nnunet_box.training.acceleration import Acceleration, room_for_cases
from nnunet_box.training.batches import NO_AUGMENTATION, TRAINING, VALIDATION, BatchSource, Key, batch_loader
from nnunet_box.training.checkpoint import load_checkpoint, save_checkpoint, save_weights, training_bytes
from nnunet_box.training.fitting import fit_to_budget
from nnunet_box.training.optimisation import CLIP_NORM, clips, make_optimiser
from nnunet_box.training.peek import Peek
from nnunet_box.training.run_log import LOG, Epoch, Progress, epoch_seconds, write_log
from nnunet_box.training.schedule import BudgetSchedule
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.step import TrainingStep
from nnunet_box.training.trackers import Tracker, tracked
from nnunet_box.training.unfinished import unfinished_run
from nnunet_box.training.validation import patch_dice
from nnunet_box.training.watching import Moment, PlainLines, RunFacts, Show, Watch, shown

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
    trackers: told of each epoch. show: makes what a person sees. Neither changes a result.
    """

    def __init__(
        self,
        plan: Plan,
        store: Path,
        fold: Fold,
        folder: Path,
        settings: TrainingSettings,
        before: Path | None = None,
        trackers: Sequence[Tracker] = (),
        show: Show = shown,
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
        self.track: Callable[[Epoch], None] = lambda line: None
        self.step = TrainingStep(self.network, self.device, self.recipe.loss, batch_dice, acceleration)
        self.trackers, self.show = trackers, show
        self.watch: Watch = PlainLines(self.facts())
        self.peek = Peek(self.device)
        self.has_checkpoint = False
        self.update_seconds: float | None = None
        """What the updates of the epoch that has begun took; None until they are done."""

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
        if self.checkpoint.exists():
            if not resume:
                raise UsageError(
                    f"{self.checkpoint} holds an unfinished run: --resume continues it, --restart begins anew."
                )
            self._restore()
        elif self.settings.budget_seconds is not None:
            assert isinstance(self.schedule, BudgetSchedule)
            self.progress = fit_to_budget(
                self.plan, self.settings.configuration, self.step, self.schedule, self.progress
            )
        weights = self.folder / WEIGHTS
        tell_if_tight(self.folder, training_bytes(self.network), f"Training {self.settings.model}")
        with patient("training ends after this batch and its checkpoint; once more ends it at once") as self.check:
            history = self.progress.history
            with self.show(self.facts(), history) as self.watch, tracked(self.trackers, history) as self.track:
                self._epochs()
                save_weights(weights, self.network)
                self.check()
        return weights

    def facts(self) -> RunFacts:
        """What a person is shown of the run beside its epochs."""
        return RunFacts(
            dataset=self.plan.dataset,
            model=self.settings.model,
            fold=self.settings.fold,
            device=f"{self.device}",
            batch_size=self.progress.batch_size,
            labels={value: name for value, name in self.plan.labels.items() if value},
            batches=self.progress.batches_per_epoch,
            checks=self._checks(),
            epochs=None if isinstance(self.schedule, BudgetSchedule) else self.schedule.most_epochs,
        )

    def _checks(self) -> int:
        """Validation batches an epoch has."""
        share = BUDGET_VALIDATION_SHARE if isinstance(self.schedule, BudgetSchedule) else VALIDATION_SHARE
        return max(1, self.progress.batches_per_epoch // share)

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
        length, checks = self.progress.batches_per_epoch, self._checks()
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
            dice = self._validate_epoch(batches, checks)
            self.progress.epoch_seconds = time.monotonic() - self.started
            self._end_epoch(loss, dice)
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
            self.watch.batch(self._moment)
            self._pause()
        mean = float(torch.stack(self.losses).mean())
        if mean != mean:
            raise NnboxError(
                f"{self.folder}: the training loss is not a number in epoch {self.progress.epoch}. "
                "Check the intensities with nnbox check; --resume continues from the last checkpoint."
            )
        self.update_seconds = time.monotonic() - self.started
        return mean

    def _validate_epoch(self, batches: Iterator[tuple[Tensor, Tensor]], count: int) -> dict[int, float | None]:
        """As ``patch_dice``; empty where a budget has ended."""
        if self.schedule.finished and isinstance(self.schedule, BudgetSchedule):
            return {}
        started = time.monotonic()

        def before(number: int) -> None:
            self.watch.batch(partial(self._moment, checked=number))
            self._pause()

        dice = patch_dice(self.step, itertools.islice(batches, count), len(self.plan.labels), before)
        if isinstance(self.schedule, BudgetSchedule):
            self.schedule.spent += time.monotonic() - started
        return dice

    def _end_epoch(self, loss: float, dice: dict[int, float | None]) -> None:
        rate = self.schedule.rate
        self.schedule.end_epoch(loss)
        line = self.progress.end_epoch(loss, dice, rate, len(self.losses), self.update_seconds or 0.0, time.time())
        self.losses.clear()
        self.update_seconds = None
        write_log(self.folder / LOG, self.progress.history)
        self.watch.epoch(line, self._seconds_left())
        self.track(line)

    def _moment(self, checked: int = 0) -> Moment:
        """Where the run is. checked: validation batches of the epoch that has begun."""
        spent = time.monotonic() - self.started
        done, seconds = len(self.losses), spent if self.update_seconds is None else self.update_seconds
        return Moment(
            epoch=self.progress.epoch + 1,
            done=done + checked,
            loss=self.peek.mean(self.losses),
            rate=self.schedule.rate,
            batches_per_second=done / seconds if seconds > 0 else None,
            checkpoint_age=time.monotonic() - self.saved if self.has_checkpoint else None,
            seconds_left=self._seconds_left(spent, done + checked),
        )

    def _seconds_left(self, spent: float = 0.0, done: int = 0) -> float | None:
        """Of the run: an upper bound where the paper's rule may end it earlier, a guess in its first epoch. spent:
        seconds in the epoch that has begun, in which it did so many batches.
        """
        if isinstance(self.schedule, BudgetSchedule):
            return max(0.0, self.schedule.seconds - self.schedule.spent)
        each = epoch_seconds(self.progress.history)
        if each is None and done:
            each = spent / done * (self.progress.batches_per_epoch + self._checks())
        epochs = self.schedule.most_epochs - self.schedule.epochs_done
        return None if each is None else max(0.0, each * epochs - spent)

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
        self.saved, self.has_checkpoint = time.monotonic(), True
        asked = self.settings.checkpoint_seconds
        self.interval = max(asked, min((self.saved - began) / SAVES_AT_MOST, MOST_INTERVALS * asked))

    def _restore(self) -> None:
        self.schedule, self.progress = unfinished_run(self.checkpoint, self.settings, self.schedule)
        load_checkpoint(self.checkpoint, self.network, self.optimizer)
        self.has_checkpoint = True
        write_log(self.folder / LOG, self.progress.history)
        begun = f" and {len(self.progress.losses)} batches" if self.progress.losses else ""
        say(f"Continuing after epoch {self.progress.epoch}{begun}")
