"""``nnbox verify-submission image`` with the real front end and the real comparison, on an engine in memory."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "containers"))
from verify_samples import TAG, OrderlyEngine, orderly_engine

from nnbox_containers import docker_engine
from nnbox_containers.engine import RunResult
from nnbox_containers.profiles import FOLDER, GRAND_CHALLENGE, PROFILES
from nnunet_box.bundle import InferencePart, load_bundle, write_bundle
from nnunet_box.cli import archive
from nnunet_box.cli.case_budget import fit_bundle
from nnunet_box.dataset.channels import write_image
from nnunet_box.dataset.volumes import read_volume
from nnunet_box.errors import EngineUnavailable, InvalidData, UsageError, VerificationFailed
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.files import write_json
from nnunet_box.inference.budget import OverBudget
from nnunet_box.inference.jobs import Job, run_job
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.planning.planner import make_plan


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A bundle of one small network with random weights, which is run without mirroring."""
    import torch
    from safetensors.torch import save_file

    from nnunet_box.network.unet import UNet

    folder = tmp_path_factory.mktemp("model")
    fingerprint = Fingerprint(
        spacings=((10.0, 2.5, 2.5),),
        sizes=((8, 20, 16),),
        cases=10,
        modalities=("MRI",),
        foreground_classes=2,
        size_after_crop_ratio=1.0,
    )
    plan = make_plan(fingerprint, "heart", {0: "background", 1: "a", 2: "b"})
    torch.manual_seed(0)
    network = UNet(plan.configurations["3d_fullres"], 1, 3)
    save_file(network.state_dict(), folder / "0.safetensors")
    write_bundle(
        folder / "bundle",
        dataset="heart",
        challenge="acdc",
        plan=plan,
        weights={"3d_fullres": {0: folder / "0.safetensors"}},
        postprocessing=Postprocessing(),
    )
    bundle = load_bundle(folder / "bundle").model_copy(update={"inference": InferencePart(mirroring=False)})
    write_json(folder / "bundle" / "bundle.json", bundle.model_dump(mode="json"))
    return folder / "bundle"


class RunningEngine(OrderlyEngine):
    """Predicts with the program an image holds, in this process."""

    folder: Path
    flip = 0

    def _predict(self, source: Path, output: Path) -> str:
        assert self.contract is not None
        places = {"input": str(source), "output": str(output), "bundle": str(self.folder)}
        contract = self.contract.model_copy(update=places | {"model": None})
        with redirect_stdout(io.StringIO()) as stdout:
            run_job(Job(), contract)
        for file in [*output.rglob("*.nii.gz"), *output.rglob("*.mha")] if self.flip else []:
            volume = read_volume(file)
            array = volume.array.copy()
            array.ravel()[: self.flip] = (array.ravel()[: self.flip] + 1) % 3
            write_image(file, array, volume.geometry)
        return stdout.getvalue()


def use(monkeypatch, model: Path, profile=FOLDER) -> RunningEngine:
    bundle = load_bundle(model)
    orderly = orderly_engine(model, bundle, profile)
    engine = RunningEngine(orderly.images, bundle=bundle, contract=orderly.contract)
    engine.folder = model
    monkeypatch.setattr(docker_engine, "DockerEngine", lambda: engine)
    return engine


def nnbox(*arguments: object) -> Result:
    app = typer.Typer()
    archive.register(app)
    return CliRunner().invoke(app, ["verify-submission", "image", *map(str, arguments)])


@pytest.mark.parametrize("name", ["folder", "grand-challenge", "flare"])
def test_an_image_in_order_is_told_so(monkeypatch, model, name):
    use(monkeypatch, model, PROFILES[name])
    result = nnbox(TAG, "--bundle", model)
    assert result.exit_code == 0, result.output
    assert "FAIL" not in result.stdout
    assert "ok    drawn_0: voxels equal: 1.000000 (0 voxels off)" in result.stdout
    assert "none failed" in result.stderr


def test_json_report_and_archive(monkeypatch, model, tmp_path):
    use(monkeypatch, model)
    file, report = tmp_path / "heart.tar", tmp_path / "report.json"
    result = nnbox(TAG, "--bundle", model, "--save", file, "--report", report, "--json", "--generate", 2)
    told = json.loads(result.stdout)
    assert told["accepted"] is True
    assert [case["case"] for case in told["cases"]] == ["drawn_0", "drawn_1"]
    assert told == json.loads(report.read_text()) == json.loads((tmp_path / "heart.tar.json").read_text())
    assert told["archive"]["file"] == str(file)
    assert file.is_file()


def test_given_cases_are_run(monkeypatch, model, acdc_cohort):
    use(monkeypatch, model)
    testing = acdc_cohort / "database" / "testing"
    result = nnbox(TAG, "--bundle", model, "--cases", testing, "--no-archive", "--json")
    assert [case["case"] for case in json.loads(result.stdout)["cases"]] == [
        f"patient{number}_{phase}" for number in (101, 102) for phase in ("ED", "ES")
    ]
    assert result.exit_code == 0, result.output
    frame = next(testing.glob("patient101/*frame01.nii.gz"))
    use(monkeypatch, model, GRAND_CHALLENGE)
    result = nnbox(TAG, "--bundle", model, "--case", frame, "--no-archive", "--json")
    assert [case["case"] for case in json.loads(result.stdout)["cases"]] == ["patient101_frame01"]
    assert result.exit_code == 0, result.output
    mode = frame.stat().st_mode
    assert nnbox(TAG, "--bundle", model, "--case", frame, "--cases", testing).exception.exit_code == 2
    assert frame.stat().st_mode == mode


def test_what_falls_short_ends_with_its_first_reason(monkeypatch, model):
    engine = use(monkeypatch, model)
    engine.flip = 1
    result = nnbox(TAG, "--bundle", model, "--no-archive")
    refusal = result.exception
    assert isinstance(refusal, VerificationFailed)
    assert refusal.exit_code == 5
    assert f"{TAG} would be refused: drawn_0: voxels equal: expected at least 0.9999; found 0.99" in str(refusal)
    assert "FAIL  drawn_0: voxels equal" in result.stdout
    engine.images[TAG] = replace(engine.images[TAG], user="")
    told = nnbox(TAG, "--bundle", model, "--no-archive", "--json")
    assert str(told.exception).startswith(f"{TAG} would be refused: user: ")
    assert "more)" in str(told.exception)
    assert json.loads(told.stdout)["accepted"] is False


def test_exit_codes_before_anything_is_run(monkeypatch, model, tmp_path):
    engine = use(monkeypatch, model)
    unknown = nnbox("no-such:1", "--bundle", model).exception
    assert isinstance(unknown, UsageError)
    assert unknown.exit_code == 2
    missing = nnbox(TAG, "--workspace", tmp_path).exception
    assert isinstance(missing, UsageError)
    assert "--no-compare" in str(missing)
    assert nnbox(TAG, "--bundle", tmp_path).exception.exit_code == InvalidData.exit_code
    assert nnbox(TAG, "--bundle", model, "--save", "a.zip").exception.exit_code == 2
    assert nnbox(TAG, "--bundle", model, "--budget-per-case", "soon").exception.exit_code == 2
    assert nnbox(TAG, "--bundle", model, "--profile", "no-such").exception.exit_code == 2
    assert engine.starts == []
    monkeypatch.setattr(engine, "inspect", lambda image: (_ for _ in ()).throw(EngineUnavailable("not running")))
    assert nnbox(TAG, "--bundle", model).exception.exit_code == 4


def test_without_a_bundle_all_but_the_predictions_is_checked(monkeypatch, model, tmp_path):
    engine = use(monkeypatch, model)
    result = nnbox(TAG, "--workspace", tmp_path, "--no-compare", "--no-archive")
    assert result.exit_code == 0, result.output
    assert "voxels equal" not in result.stdout
    assert len(engine.starts) == 2
    engine.result = RunResult(1, "", "nnbox: out of order")
    assert nnbox(TAG, "--workspace", tmp_path, "--no-compare").exception.exit_code == 5


def test_a_bundle_is_fitted_to_a_time_on_a_drawn_or_a_given_case(model, acdc_cohort):
    bundle = load_bundle(model)
    fitted = fit_bundle(model, bundle, "5m", None, "cpu")
    record = fitted.inference.budget
    assert (record.case, record.budget_seconds) == ("drawn_0", 300)
    assert record.trials[-1].measured
    assert fitted.members == bundle.members
    frame = next((acdc_cohort / "database" / "testing").glob("patient101/*frame01.nii.gz"))
    assert fit_bundle(model, bundle, "5m", frame, "cpu").inference.budget.case == "patient101_frame01"
    with pytest.raises(OverBudget, match="so a case needs a budget of") as refusal:
        fit_bundle(model, bundle, "1s", None, "cpu")
    assert refusal.value.exit_code == 1
    with pytest.raises(UsageError):
        fit_bundle(model, bundle, "soon", None, "cpu")
