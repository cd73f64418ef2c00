"""A cascade from the plan to a prediction, on a small data set whose plan has one by the planner's own rule."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from nnunet_box.bundle import load_bundle
from nnunet_box.cli.app import app
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.dataset.volumes import read_volume, write_labels_like
from nnunet_box.errors import UsageError
from nnunet_box.evaluation.selection import load_selection
from nnunet_box.execution import fold as fold_module
from nnunet_box.execution import graph, prepare
from nnunet_box.execution.chain import train_all
from nnunet_box.execution.choose import bundle_dataset
from nnunet_box.execution.fold import train_fold
from nnunet_box.execution.folds import previous_predictions
from nnunet_box.execution.graph import networks
from nnunet_box.execution.prepare import (
    check_configurations,
    plan_dataset,
    prepare_previous_stage,
    preprocess_dataset,
)
from nnunet_box.execution.request import Request
from nnunet_box.files import write_json
from nnunet_box.planning.plan import MODELS, load_plan
from nnunet_box.preprocessing.previous_stage import open_previous
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace
from tests.execution.cascade_samples import MEMORY_GB, SHAPE, write_cases

pytestmark = pytest.mark.slow

Network = tuple[str, int]
LOW, FULL, CASCADE = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
VARIANTS = ("no-mirroring",)  # A variant that predicts eight times faster.
QUICK = TrainingSettings(CASCADE, 0, VARIANTS, epochs=1, batches_per_epoch=1, device="cpu", workers=0)
LOW_MODEL, CASCADE_MODEL = (f"{name}__no-mirroring" for name in (LOW, CASCADE))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Dataset]:
    """Planned and preprocessed, nothing trained."""
    root = tmp_path_factory.mktemp("cascade")
    dataset = write_cases(root / "datasets" / "toy")
    workspace = Workspace(root, dataset.name)
    plan = plan_dataset(workspace, dataset, MEMORY_GB, processes=1)
    for name in ("2d", LOW, CASCADE):
        preprocess_dataset(workspace, dataset, plan, name, processes=1)
    return workspace, dataset


@pytest.fixture(scope="module")
def trained(
    planned: tuple[Workspace, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, Dataset, list[Network]]:
    """The whole chain with 2D, the first stage and the cascade on folds 0 and 1; the order in which they trained."""
    workspace = copy(planned[0], tmp_path_factory.mktemp("trained"))
    order: list[Network] = []
    train = train_fold

    def note(workspace: Workspace, dataset: Dataset, settings: TrainingSettings) -> float:
        order.append((settings.configuration, settings.fold))
        return train(workspace, dataset, settings)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graph, "train_fold", note)
        train_all(workspace, planned[1], QUICK, [CASCADE, "2d", LOW], [0, 1])
    return workspace, planned[1], order


def copy(workspace: Workspace, root: Path) -> Workspace:
    """A workspace of its own with the same content; file times are not kept, which must not matter."""
    for name in ("preprocessed", "models", "bundles"):
        if (workspace.root / name).is_dir():
            shutil.copytree(workspace.root / name, root / name, copy_function=shutil.copyfile)
    return Workspace(root, workspace.dataset)


def test_a_small_data_set_has_a_cascade_by_the_planners_rule(planned: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = planned
    plan = load_plan(workspace.plan)
    assert check_configurations(plan, None) == list(MODELS)
    assert check_configurations(plan, [CASCADE, LOW]) == [LOW, CASCADE]
    assert sorted(path.name for path in workspace.preprocessed.iterdir() if path.is_dir()) == ["2d", FULL, LOW]
    wanted = networks(workspace, dataset, plan, Request())
    assert len(wanted) == 20 and [configuration for configuration, _ in wanted[-5:]] == [CASCADE] * 5
    shown = CliRunner().invoke(app, ["status", dataset.name, "--workspace", str(workspace.root), "--json"])
    shown_networks = json.loads(shown.stdout)["networks"]
    assert {network["configuration"] for network in shown_networks} == set(MODELS)
    table = CliRunner().invoke(app, ["plan", "--fingerprint", str(workspace.fingerprint), "--memory-gb", "0.1"])
    assert CASCADE not in table.stdout, "with more memory there is none"


def test_missing_folds_of_the_first_stage_are_named_before_anything_is_done(
    planned: tuple[Workspace, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold_module, "Trainer", lambda *_: pytest.fail("trained"))
    command = r"nnbox train toy --configuration 3d_lowres --fold 0 --variant no-mirroring, likewise 1, 2, 3, 4\."
    for names in ([CASCADE], ["2d", CASCADE]):
        with pytest.raises(UsageError, match=f"folds 0, 1, 2, 3, 4 of it are not finished. Train first: {command}"):
            train_all(*planned, QUICK, names)
    with pytest.raises(UsageError, match=r"of 3d_lowres as input"):
        train_fold(*planned, replace(QUICK, variants=()))


def test_the_first_stage_is_trained_in_all_folds_and_before_the_cascade(
    trained: tuple[Workspace, Dataset, list[Network]],
) -> None:
    _, _, order = trained
    assert set(order) == {*((LOW, fold) for fold in range(5)), *(("2d", f) for f in (0, 1)), *order[-2:]}
    assert order[-2:] == [(CASCADE, 0), (CASCADE, 1)]


def test_the_chain_selects_bundles_and_predicts_with_both_stages(
    trained: tuple[Workspace, Dataset, list[Network]], tmp_path: Path
) -> None:
    workspace, dataset, _ = trained
    workspace = copy(workspace, tmp_path)
    selection = load_selection(workspace.selection)
    assert selection.folds == (0, 1) and selection.cases == 2
    singles = [candidate.name for candidate in selection.candidates if len(candidate.configurations) == 1]
    assert singles == ["2d__no-mirroring", LOW_MODEL, CASCADE_MODEL]
    assert len(selection.candidates) == 6, "pairs too"
    # Networks of one batch: whatever was chosen, the cascade is what this test is about.
    write_json(workspace.selection, selection.model_copy(update={"chosen": (CASCADE_MODEL,)}).model_dump(mode="json"))
    bundle_dataset(workspace, dataset)
    (member,) = load_bundle(workspace.bundle, check_weights=True).members
    assert member.previous_stage is not None
    assert [entry.fold for entry in member.weights] == [0, 1]
    assert [entry.fold for entry in member.previous_stage.weights] == [0, 1, 2, 3, 4]
    assert (member.variants, member.previous_stage.variants) == (VARIANTS, VARIANTS)
    (case,) = dataset.test_cases
    arguments = [str(workspace.bundle), str(case.reference_file), str(tmp_path / "out"), "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, ["predict", *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["networks"] == 7
    assert read_volume(next((tmp_path / "out").glob("*.nii.gz"))).array.shape == SHAPE


def test_done_is_done_also_in_a_copied_workspace(
    trained: tuple[Workspace, Dataset, list[Network]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset, _ = trained
    workspace = copy(workspace, tmp_path)
    monkeypatch.setattr(fold_module, "Trainer", lambda *_: pytest.fail("trained again"))
    train_fold(workspace, dataset, QUICK)


def mark(workspace: Workspace, dataset: Dataset) -> None:
    """Each fold's label maps say in their plane number ``fold`` whose they are."""
    cases = {case.id: case for case in dataset.cases}
    for number in range(5):
        for file in (workspace.fold(LOW_MODEL, number) / "validation").glob("*.nii.gz"):
            labels = np.zeros(SHAPE, np.uint8)
            labels[number] = 1
            write_labels_like(file, labels, cases[file.name.removesuffix(".nii.gz")].reference_file)


def fold_of(labels: NDArray[np.uint8]) -> int:
    (plane,) = np.flatnonzero((np.asarray(labels) == 1).all(axis=(1, 2)))
    return int(plane)


def test_every_case_gets_the_prediction_of_the_network_that_has_not_seen_it(
    trained: tuple[Workspace, Dataset, list[Network]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset, _ = trained
    workspace = copy(workspace, tmp_path)
    for number in range(5):  # A prediction for every case in every fold: the right one must be chosen.
        for case in dataset.cases:
            file = workspace.fold(LOW_MODEL, number) / "validation" / f"{case.id}.nii.gz"
            file.touch()
    mark(workspace, dataset)
    folds = load_or_make_folds(workspace.splits, dataset)
    held_out = {case: number for number, fold in enumerate(folds) for case in fold.val}
    given: dict[str, int] = {}
    predict = fold_module.predict_case
    reading: list[str] = []
    read = fold_module.read_image

    def note_case(case):  # type: ignore[no-untyped-def]
        reading.append(case.id)
        return read(case)

    def note(*arguments, **keywords):  # type: ignore[no-untyped-def]
        given[reading[-1]] = fold_of(arguments[-1])
        return predict(*arguments, **keywords)

    monkeypatch.setattr(fold_module, "read_image", note_case)
    monkeypatch.setattr(fold_module, "predict_case", note)
    train_fold(workspace, dataset, replace(QUICK, fold=3))
    store = workspace.case_store(CASCADE_MODEL)
    stored = {case.id: fold_of(open_previous(store, case.id)[:]) for case in dataset.cases}
    assert stored == held_out, "what it is trained on"
    assert given == {case: 3 for case in folds[3].val}, "what it is validated with"


def test_retrained_folds_of_the_first_stage_invalidate_store_and_cascade(
    trained: tuple[Workspace, Dataset, list[Network]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset, _ = trained
    workspace = copy(workspace, tmp_path)
    plan = load_plan(workspace.plan)
    stored: list[str] = []
    write = prepare._store_previous

    def count(case, **keywords):  # type: ignore[no-untyped-def]
        stored.append(case[0].id)
        return write(case, **keywords)

    monkeypatch.setattr(prepare, "_store_previous", count)

    def prepared() -> int:
        stored.clear()
        predictions = previous_predictions(workspace, dataset, plan, CASCADE, VARIANTS)
        assert predictions is not None
        prepare_previous_stage(workspace, dataset, plan, CASCADE_MODEL, predictions, processes=1)
        return len(stored)

    assert prepared() == 0, "nothing changed"
    mark(workspace, dataset)
    monkeypatch.setattr(fold_module, "Trainer", lambda *_: pytest.fail("trained again"))
    assert prepared() == len(dataset.cases)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train_fold(workspace, dataset, QUICK)
    assert not (workspace.fold(CASCADE_MODEL, 0) / "stage.json").exists(), "no longer done"
    (workspace.fold(CASCADE_MODEL, 0) / "checkpoint").mkdir()
    first = next((workspace.fold(LOW_MODEL, 0) / "validation").glob("*.nii.gz"))
    write_labels_like(first, np.zeros(SHAPE, np.uint8), first)
    assert prepared() == len(dataset.cases)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train_fold(workspace, dataset, QUICK)
    left = {file.name for file in workspace.fold(CASCADE_MODEL, 0).iterdir()}
    assert "checkpoint-before" in left and "checkpoint" not in left, "an unfinished run of other inputs is set aside"


def test_folds_of_another_plan_or_split_are_not_taken(
    trained: tuple[Workspace, Dataset, list[Network]], tmp_path: Path
) -> None:
    workspace, dataset, _ = trained
    workspace = copy(workspace, tmp_path)
    plan = load_plan(workspace.plan)
    assert previous_predictions(workspace, dataset, plan, FULL, VARIANTS) is None
    assert previous_predictions(workspace, dataset, plan, CASCADE, VARIANTS) is not None
    coarser = plan.configurations[LOW].model_copy(update={"spacing": (2.0, 2.0, 2.0)})
    other = plan.model_copy(update={"configurations": {**plan.configurations, LOW: coarser}})
    with pytest.raises(UsageError, match="folds 0, 1, 2, 3, 4 of it are not finished"):
        previous_predictions(workspace, dataset, other, CASCADE, VARIANTS)
    lost = next((workspace.fold(LOW_MODEL, 2) / "validation").glob("*.nii.gz"))
    lost.unlink()
    with pytest.raises(UsageError, match=r"fold 2 of it is not finished. Train first: .* --fold 2 --variant no-mirr"):
        previous_predictions(workspace, dataset, plan, CASCADE, VARIANTS)
    folds = json.loads(workspace.splits.read_text())
    folds[0], folds[1] = folds[1], folds[0]
    write_json(workspace.splits, folds)
    with pytest.raises(UsageError, match="folds 0, 1, 2 of it"):
        previous_predictions(workspace, dataset, plan, CASCADE, VARIANTS)
