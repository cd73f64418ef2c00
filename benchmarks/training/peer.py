"""nnunetv2's side of training, in its own environment; see ``compare.py``. Never imported by the product.

Its own trainer, network, augmentation, loss, optimiser and plan. Epochs are short, and the polynomial fall of the rate
follows the time spent instead of the epochs, so that it ends where the time does. Only batches count as time: what it
does between them (validation batches, a picture of the progress) is not taken from its minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
from measuring import Taken
from training import accuracy

Work = Callable[[], Taken]
NUMBER, NAME = 4, "Dataset004_Hippocampus"
BATCHES_AN_EPOCH = 10
POWER = 0.9


def root() -> Path:
    """Its folders."""
    return accuracy.folder().parent / "nnunetv2"


def prepared() -> None:
    """Its raw data set (our converted one), fingerprint, plan and preprocessed cases, and our folds.

    Sets the variables that nnunetv2 reads its folders from, so nothing of it may be imported before.
    """
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(root() / kind)
    accuracy.with_our_python("prepare")
    ours = accuracy.workspace() / "datasets" / accuracy.DATASET
    raw = root() / "raw" / NAME
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("imagesTr", "labelsTr"):
        if not (raw / part).exists():
            (raw / part).symlink_to(ours / part, target_is_directory=True)
    shutil.copy(ours / "dataset.json", raw)
    done = root() / "preprocessed" / NAME / "done"
    if not done.exists():
        from nnunetv2.experiment_planning.plan_and_preprocess_api import (
            extract_fingerprints,
            plan_experiments,
            preprocess,
        )

        extract_fingerprints([NUMBER], num_processes=os.cpu_count() or 1)
        plan_experiments([NUMBER])
        preprocess([NUMBER], configurations=(accuracy.CONFIGURATION,), num_processes=(os.cpu_count() or 1,))
        done.touch()
    folds = accuracy.workspace() / "preprocessed" / accuracy.DATASET / "splits.json"
    shutil.copy(folds, root() / "preprocessed" / NAME / "splits_final.json")


def trainer(whole: float) -> Any:
    """nnunetv2's trainer, whose training ends after ``whole`` seconds of batches."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class TimedTrainer(nnUNetTrainer):
        spent = 0.0
        updates = 0

        def run_training(self) -> None:
            self.on_train_start()
            self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = BATCHES_AN_EPOCH, 1
            self.disable_checkpointing = True
            while self.spent < whole:
                self.on_epoch_start()
                self.on_train_epoch_start()
                self.on_train_epoch_end(self.batches())
                with torch.no_grad():
                    self.on_validation_epoch_start()
                    self.on_validation_epoch_end([self.validation_step(next(self.dataloader_val))])
                self.on_epoch_end()
            self.on_train_end()

        def batches(self) -> list[dict[str, Any]]:
            """An epoch's, or those until the time is spent."""
            outputs: list[dict[str, Any]] = []
            while self.spent < whole and len(outputs) < self.num_iterations_per_epoch:
                started = time.perf_counter()
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - self.spent / whole) ** POWER
                outputs.append(self.train_step(next(self.dataloader_train)))
                self.spent += time.perf_counter() - started
            self.updates += len(outputs)
            return outputs

    folder = root() / "preprocessed" / NAME
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    about = json.loads((folder / "dataset.json").read_text())
    torch.set_num_threads(os.cpu_count() or 1)
    return TimedTrainer(plans, accuracy.CONFIGURATION, accuracy.FOLD, about, device=torch.device("cpu"))


def train() -> dict[str, Any]:
    """Training, then nnunetv2's own validation, scored as ours is."""
    run = trainer(accuracy.seconds(accuracy.PEER_SECONDS))
    shutil.rmtree(run.output_folder, ignore_errors=True)
    Path(run.output_folder).mkdir(parents=True)
    run.run_training()
    peak = measuring.memory_bytes("VmHWM")
    run.perform_actual_validation()
    found: dict[str, Any] = json.loads(accuracy.with_our_python("score", str(Path(run.output_folder) / "validation")))
    return found | {"seconds": run.spent, "peak_bytes": peak, "updates": run.updates}


def accuracy_row() -> Work:
    """The trained network's Dice."""
    prepared()
    return lambda: accuracy.once("nnunetv2", train)


ROWS: dict[str, Callable[[], Work]] = {"accuracy": accuracy_row}


if __name__ == "__main__":
    measuring.run_row(ROWS)
