"""A small workspace, bundle and nnU-Net model as training leaves them, for tests that damage them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from hostile_samples import plan_of
from mutate_volumes import dataset_place, write
from mutator import good_image, good_label, volume_files

IMPORTING = Path(__file__).resolve().parents[1] / "importing"
CASES = 6
TRAIN = ["train", "m", "-c", "3d_fullres", "-f", "0", "--epochs", "3", "--batches-per-epoch", "1", "--workers", "0"]
TRAIN += ["--device", "cpu"]


class _Stop(Exception):
    """Ends a training in its last epoch."""


def write_workspace(root: Path) -> Path:
    """Data set ``m``: fold 0 with a checkpoint of two of three epochs, folds 1 and 2 finished for two models, selected
    and bundled.
    """
    from nnunet_box.cli.common import open_dataset
    from nnunet_box.execution.choose import bundle_dataset, select_dataset
    from nnunet_box.execution.fold import train_fold
    from nnunet_box.files import write_json
    from nnunet_box.training.settings import TrainingSettings
    from nnunet_box.training.trainer import Trainer

    folder = root / "datasets" / "m"
    dataset_place(folder, "nii.gz")
    for case in range(3, CASES):
        write(folder / "imagesTr" / f"case_{case}_0000", ".nii.gz", volume_files(good_image(case), "nii.gz")[".nii.gz"])
        write(folder / "labelsTr" / f"case_{case}", ".nii.gz", volume_files(good_label(case), "nii.gz")[".nii.gz"])
    plan = plan_of(dataset="m")
    both = plan.model_copy(
        update={"configurations": plan.configurations | {"3d_lowres": plan.configurations["3d_fullres"]}}
    )
    write_json(root / "preprocessed" / "m" / "plan.json", both.model_dump(mode="json", exclude_none=True))
    workspace, dataset = open_dataset(root, "m")

    def settings(configuration: str, fold: int, epochs: int) -> TrainingSettings:
        return TrainingSettings(
            configuration, fold, epochs=epochs, batches_per_epoch=1, device="cpu", workers=0, checkpoint_seconds=0.0
        )

    for configuration in ("3d_fullres", "3d_lowres"):
        for fold in (1, 2):
            train_fold(workspace, dataset, settings(configuration, fold, 1))
    whole = Trainer._train_epoch

    def stopped(self: Trainer, batches: object, count: int) -> float:
        if self.progress.epoch == 2:
            raise _Stop
        return whole(self, batches, count)  # type: ignore[arg-type]

    Trainer._train_epoch = stopped  # type: ignore[assignment]
    try:
        train_fold(workspace, dataset, settings("3d_fullres", 0, 3))
    except _Stop:
        pass
    finally:
        Trainer._train_epoch = whole  # type: ignore[method-assign]
    select_dataset(workspace, dataset)
    bundle_dataset(workspace, dataset)
    return root


def write_nnunet_model(folder: Path) -> Path:
    """As nnU-Net v2 leaves one."""
    sys.path.insert(0, str(IMPORTING))
    try:
        from nnunet_samples import write_model
    finally:
        sys.path.remove(str(IMPORTING))
    return write_model(folder)


def write_models(root: Path) -> Path:
    """``ws``, ``images`` and ``nnunet`` below ``root``."""
    write_workspace(root / "ws")
    for ending, content in volume_files(good_image(0), "nii.gz").items():
        write(root / "images" / "scan", ending, content)
    write_nnunet_model(root / "nnunet")
    return root


def copied(models: Path, to: Path) -> Path:
    return Path(shutil.copytree(models, to, symlinks=True))
