"""The chain that ``nnbox demo`` walks, by the functions that the commands call."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_box import __version__
from nnunet_box.cli.demo_display import ChainDisplay, Step
from nnunet_box.cli.demo_image import build_and_run, usable_base
from nnunet_box.errors import UsageError
from nnunet_box.files import write_json
from nnunet_box.workspace import Workspace

if TYPE_CHECKING:
    from nnunet_box.evaluation.comparison import Comparison
    from nnunet_box.evaluation.selection import Selection

CHALLENGE = DATASET = "acdc"
CONFIGURATIONS = ("2d", "3d_fullres")
MARK = "demo.json"

COHORT, CONVERT, PLAN = "Draw a synthetic cohort", "Convert it", "Plan and preprocess"
TRAIN, PREDICT, EVALUATE = "Train, validate, select, bundle", "Predict the test patients", "Evaluate"
IMAGE = "Build the image and run it"
SECONDS_A_NETWORK = 12.0
"""Validation of a fold and its share of selection, beyond the budget."""


@dataclass(frozen=True)
class DemoSettings:
    """One demo. patients, test_patients, size, slices, seed: the cohort's. budget_seconds: for all networks together.

    base_image: None looks for the default one, then for a local one. image: whether to build one at all.
    """

    workspace: Path
    budget_seconds: float
    folds: int = 2
    patients: int = 20
    test_patients: int = 4
    size: int = 48
    slices: tuple[int, int] = (5, 6)
    seed: int = 2019
    device: str = "auto"
    base_image: str | None = None
    image: bool = True

    @property
    def download(self) -> Path:
        return self.workspace / "download"

    @property
    def tests(self) -> Path:
        return self.download / "database" / "testing"

    @property
    def predictions(self) -> Path:
        return self.workspace / "predictions" / DATASET


@dataclass(frozen=True)
class DemoResult:
    """comparison: held-out test images beside their references. overlay: the picture. image: the tag, None if skipped.

    note: the agreement of the container with the prediction made here, or why there is no image.
    """

    comparison: Comparison
    selection: Selection
    overlay: Path
    image: str | None
    note: str


def prepare_workspace(folder: Path, keep: bool) -> None:
    """Make or empty the demo's folder; with ``keep`` go on from what an earlier demo left.

    Raises
    ------
    UsageError: the folder holds something that no demo wrote; it is left alone.
    """
    ours = (folder / MARK).is_file()
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not a demo's: name another folder with --workspace.")
    if ours and not keep:
        shutil.rmtree(folder)
    write_json(folder / MARK, {"schema_version": 1, "nnunet_box": __version__})


def steps(settings: DemoSettings) -> list[Step]:
    """The chain's steps with the seconds they take on two cores."""
    networks = settings.folds * len(CONFIGURATIONS)
    expected = [
        (COHORT, 5.0),
        (CONVERT, 5.0),
        (PLAN, 20.0),
        (TRAIN, settings.budget_seconds + SECONDS_A_NETWORK * networks),
        (PREDICT, 10.0),
        (EVALUATE, 5.0),
        *([(IMAGE, 60.0)] if settings.image else []),
    ]
    return [Step(name, seconds) for name, seconds in expected]


def run_demo(settings: DemoSettings) -> DemoResult:
    """Walk the whole chain in ``settings.workspace``, which ``prepare_workspace`` has made.

    Raises
    ------
    EngineUnavailable, UsageError, NnboxError: a base image was named and cannot be used; found out before any training.
    NnboxError: as the steps do; the container failed, or its label maps are not those predicted here.
    """
    from nnunet_box.dataset.dataset import load_dataset
    from nnunet_box.execution.chain import train_all
    from nnunet_box.execution.prepare import plan_dataset, preprocess_configurations
    from nnunet_box.inference.jobs import Job, run_job
    from nnunet_box.training.settings import TrainingSettings

    if settings.image and settings.base_image is not None:
        usable_base(settings.base_image)
    workspace = Workspace(settings.workspace, DATASET)
    with ChainDisplay(steps(settings), settings.workspace / "logs" / "demo.log") as display:
        folder = settings.workspace / "datasets" / DATASET
        _draw_and_convert(settings, folder, display)
        dataset = load_dataset(folder)
        with display.step(PLAN):
            plan = plan_dataset(workspace, dataset)
            preprocess_configurations(workspace, dataset, plan, CONFIGURATIONS)
        with display.step(TRAIN) as step:
            training = TrainingSettings(
                CONFIGURATIONS[0], 0, budget_seconds=settings.budget_seconds, device=settings.device
            )
            selection, _ = train_all(workspace, dataset, training, CONFIGURATIONS, range(settings.folds))
            step.detail = (
                f"chosen: {selection.best.name}, cross-validated Dice {selection.best.mean_foreground_dice:.3f}"
            )
        with display.step(PREDICT) as step:
            job = Job(workspace.bundle, (str(settings.tests),), settings.predictions, settings.device)
            run_job(job, None)
            step.detail = str(settings.predictions)
        with display.step(EVALUATE) as step:
            comparison, overlay = evaluate(settings)
            step.detail = f"mean Dice {comparison.mean_foreground_dice:.3f}"
        image, note = None, "No image was asked for."
        if settings.image:
            with display.step(IMAGE) as step:
                image, note = build_and_run(
                    workspace.bundle,
                    settings.tests,
                    settings.predictions,
                    settings.workspace,
                    settings.base_image,
                )
                step.state, step.detail = ("running" if image else "skipped"), note
    return DemoResult(comparison, selection, overlay, image, note)


def _draw_and_convert(settings: DemoSettings, destination: Path, display: ChainDisplay) -> None:
    from nnbox_challenges.synthetic import write_acdc_cohort
    from nnunet_box.dataset.challenge import load_challenge

    with display.step(COHORT) as step:
        # A converted dataset is whole, so the download it came from is too.
        if not destination.exists():
            write_acdc_cohort(
                settings.download,
                settings.patients,
                settings.test_patients,
                settings.seed,
                settings.size,
                settings.slices,
            )
        step.detail = f"{settings.patients} patients with labels, {settings.test_patients} to be predicted"
    with display.step(CONVERT) as step:
        if not destination.exists():
            challenge = load_challenge(CHALLENGE)
            challenge.convert(challenge.recognise(settings.download / "database"), destination)
        step.detail = str(destination)


def evaluate(settings: DemoSettings) -> tuple[Comparison, Path]:
    """Compare the predictions with the references kept apart, and draw the case whose Dice is the median."""
    from nnunet_box.bundle import load_bundle
    from nnunet_box.dataset.challenge import load_challenge
    from nnunet_box.dataset.volumes import read_volume
    from nnunet_box.evaluation.comparison import compare, pair_files
    from nnunet_box.evaluation.summary import nan_mean
    from nnunet_box.report.overlay import overlay_png

    names = load_bundle(Workspace(settings.workspace, DATASET).bundle).labels
    references = settings.download / "references"
    comparison = compare(
        pair_files(settings.predictions, references), {value: name for value, name in names.items() if value}
    )
    means = {case: nan_mean(score.dice for score in scores.values()) for case, scores in comparison.cases.items()}
    middle = sorted(means, key=lambda case: means[case])[len(means) // 2]
    source = next(
        case for case in load_challenge(CHALLENGE).test_cases(settings.tests, 1) if case.id == middle
    ).reference_file
    image = read_volume(source)
    labels, reference = (
        read_volume(folder / f"{middle}.nii.gz").array for folder in (settings.predictions, references)
    )
    overlay = settings.workspace / "reports" / DATASET / f"{middle}.png"
    overlay_png(image.array, labels, reference, overlay, names, image.geometry.spacing)
    return comparison, overlay
