"""The table of Figure 2."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nnunet_box.cli import ablate as command
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.execution import ablation as ablation_module
from nnunet_box.execution.ablation import FIGURE_2, ablate
from nnunet_box.files import write_json
from nnunet_box.planning.variant import VARIANTS
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace

DICE = {
    "3d_fullres": (0.9, 0.8),
    "3d_fullres__relu": (0.9, 0.63),
    "3d_fullres__ce-only": (0.0, float("nan")),
    "2d": (0.9, 0.8),
    "2d__relu": (0.9, 0.63),
}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[TrainingSettings]:
    """Training is replaced by a summary that is known; what was asked for is kept."""
    asked: list[TrainingSettings] = []

    def train(workspace: Workspace, dataset: Dataset, settings: TrainingSettings) -> float:
        asked.append(settings)
        first, second = DICE[settings.model]
        defined = [value for value in (first, second) if value == value]
        summary = {
            "foreground_mean": {"Dice": sum(defined) / len(defined)},
            "mean": {"1": {"Dice": first}, "2": {"Dice": second}},
        }
        write_json(workspace.fold(settings.model, settings.fold) / "validation" / "summary.json", summary)
        return 0.0

    monkeypatch.setattr(ablation_module, "train_fold", train)
    return asked


def dataset(name: str) -> Dataset:
    labels = {0: "background", 1: "anterior", 2: "posterior"}
    return Dataset(Path("nowhere"), name, ("MR",), labels, ".nii.gz", None, (), ())


def test_figure_2_is_six_of_the_variants() -> None:
    assert set(FIGURE_2) <= set(VARIANTS)
    assert all(len(changes) == len(FIGURE_2) for changes in ablation_module.PAPER_CHANGE.values())


def test_rows_stand_beside_the_papers(tmp_path: Path, trainings: list[TrainingSettings]) -> None:
    workspace = Workspace(tmp_path, "decathlon-Task04_Hippocampus")
    settings = TrainingSettings("3d_fullres", 1, budget_seconds=90.0)
    found = ablate(workspace, dataset(workspace.dataset), settings, [("relu",), ("ce-only",)])
    assert [asked.variants for asked in trainings] == [(), ("relu",), ("ce-only",)]
    assert {asked.budget_seconds for asked in trainings} == {30.0}
    assert found.paper_dice == 0.89
    paper, relu, ce = found.rows
    assert (paper.variant, paper.change, paper.paper_change) == ("paper", 0.0, None)
    assert relu.change == pytest.approx(-10.0) and relu.paper_change == -0.1
    assert ce.dice == {1: 0.0, 2: None} and ce.change == pytest.approx(-100.0) and ce.paper_change == 0.0
    written = json.loads((tmp_path / "models" / workspace.dataset / "ablation.json").read_text())
    assert written["schema_version"] == 1 and len(written["rows"]) == 3


def test_a_data_set_the_paper_has_not_gets_no_row_of_it(tmp_path: Path, trainings: list[TrainingSettings]) -> None:
    found = ablate(Workspace(tmp_path, "acdc"), dataset("acdc"), TrainingSettings("3d_fullres", 0), [("relu",)])
    assert found.paper_dice is None and found.rows[1].paper_change is None
    hippocampus = "decathlon-Task04_Hippocampus"
    planar = ablate(Workspace(tmp_path, hippocampus), dataset(hippocampus), TrainingSettings("2d", 0), [("relu",)])
    assert planar.paper_dice is None and planar.rows[1].paper_change is None
    assert trainings[0].budget_seconds is None


def test_the_command_prints_a_table(
    tmp_path: Path, trainings: list[TrainingSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    app = typer.Typer()
    command.register(app)
    opened = Workspace(tmp_path, "decathlon-Task04_Hippocampus"), dataset("decathlon-Task04_Hippocampus")
    monkeypatch.setattr("nnunet_box.cli.common.open_dataset", lambda workspace, name: opened)
    shown = CliRunner().invoke(app, ["--variants", "relu"], env={"COLUMNS": "140"}).stdout
    assert "relu" in shown and "-10.0 %" in shown and "-0.1 %" in shown and "paper: 0.89" in shown
    assert [asked.variants for asked in trainings] == [(), ("relu",)]
    trainings.clear()
    monkeypatch.setitem(DICE, "3d_fullres__relu__sgd-poly", (0.9, 0.9))
    value = json.loads(CliRunner().invoke(app, ["--variants", "relu+sgd-poly", "--json"]).stdout)
    assert value["rows"][1]["variant"] == "relu__sgd-poly"
    assert replace(trainings[0], variants=("relu", "sgd-poly")) == trainings[1]
