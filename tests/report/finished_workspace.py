"""A workspace in which everything is done but the training itself: networks as they begin, predictions that are the
references moved by some voxels. Made in seconds, and read by the same code as a real one.
"""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.synthetic import write_acdc_cohort
from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.dataset.volumes import read_volume, write_labels_like
from nnunet_box.evaluation.summary import summarise_pairs, write_summary
from nnunet_box.execution.choose import select_and_bundle
from nnunet_box.execution.prepare import plan_dataset
from nnunet_box.execution.stage import stage
from nnunet_box.inference.export import PROBABILITIES_SUFFIX
from nnunet_box.network.unet import UNet
from nnunet_box.planning.variant import PAPER
from nnunet_box.training.checkpoint import save_weights
from nnunet_box.training.run_log import LOG, Epoch, write_log
from nnunet_box.training.trainer import WEIGHTS
from nnunet_box.workspace import VALIDATION, Workspace

MODELS = {"2d": 3, "3d_fullres": 2}
"""Each with the most voxels that its predictions are off by."""
EPOCHS = 40


def planned_workspace(folder: Path, patients: int = 10) -> tuple[Workspace, Dataset]:
    """Download, conversion and plan: nothing trained."""
    write_acdc_cohort(folder / "download", patients=patients, test_patients=2, seed=3, size=48, slices=(5, 6))
    adapter, root = Acdc(), folder / "nnbox"
    adapter.convert(adapter.recognise(folder / "download" / "database"), root / "datasets" / "acdc")
    workspace, dataset = Workspace(root, "acdc"), load_dataset(root / "datasets" / "acdc")
    plan_dataset(workspace, dataset, memory_gb=1.0, processes=1)
    load_or_make_folds(workspace.splits, dataset)
    return workspace, dataset


def finished_workspace(folder: Path, patients: int = 10) -> tuple[Workspace, Dataset]:
    """The same with five folds of two models, selected and bundled."""
    workspace, dataset = planned_workspace(folder, patients)
    plan = plan_dataset(workspace, dataset, memory_gb=1.0, processes=1)
    for model, most in MODELS.items():
        weights = UNet(plan.configuration_of(model), plan.inputs_of(model), len(plan.labels), PAPER)
        for fold in range(5):
            finish_fold(workspace, dataset, model, fold, most)
            save_weights(workspace.fold(model, fold) / WEIGHTS, weights)
    select_and_bundle(workspace, dataset)
    return workspace, dataset


def finish_fold(workspace: Workspace, dataset: Dataset, model: str, fold: int, most: int) -> None:
    """Log, predictions, their probabilities and summary of one fold, and the mark that it is done."""
    random = np.random.default_rng(100 * fold + most)
    held_out = set(load_or_make_folds(workspace.splits, dataset)[fold].val)
    cases = [case for case in dataset.cases if case.id in held_out]
    folder = workspace.fold(model, fold)
    parameters = {"configuration": model, "fold": fold, "seed": 12345, "epochs": EPOCHS, "batches_per_epoch": 250}
    (folder / VALIDATION).mkdir(parents=True)
    with stage(folder, f"{model}-{fold}", parameters):
        learned = 1 - np.exp(-np.arange(1, EPOCHS + 1) / 8) + random.normal(0, 0.01, EPOCHS)
        lines = [
            Epoch(epoch, loss=0.4 - 1.2 * share, validation_dice=0.9 * share, rate=3e-4, seconds=30.0)
            for epoch, share in enumerate(learned.tolist(), start=1)
        ]
        write_log(folder / LOG, lines)
        pairs = []
        for case in cases:
            labels = read_volume(case.label).array.astype(np.uint8)
            moved = np.roll(labels, tuple(random.integers(-most, most + 1, 2)), axis=(1, 2))
            file = folder / VALIDATION / f"{case.id}.nii.gz"
            write_labels_like(file, moved, case.reference_file)
            sure = np.stack([moved == label for label in dataset.labels]).astype(np.float16)
            probabilities = folder / VALIDATION / f"{case.id}{PROBABILITIES_SUFFIX}"
            blosc2.asarray(sure, urlpath=str(probabilities), mode="w")
            pairs.append((case.id, file, case.label))
        write_summary(summarise_pairs(pairs, dataset.labels), folder / VALIDATION / "summary.json")
