"""Imported models in submission images: without a challenge the image reads a plain folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nnunet_samples import configuration, plans, predict_like_nnunet, random_weights, write_model
from typer.testing import CliRunner

from nnunet_box.cli.app import app
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import read_volume, write_nifti
from nnunet_box.importing.model import import_models

TARGET = (2.0, 1.0, 1.0)


def imported(folder: Path) -> Path:
    write_model(folder / "model", plan=plans({"3d_fullres": configuration(3, TARGET)}))
    import_models([folder / "model"], folder / "bundle")
    return folder / "bundle"


def test_the_recipe_of_an_image_without_a_challenge(tmp_path: Path) -> None:
    bundle = imported(tmp_path)
    arguments = ["build-submission", "image", str(bundle), "--dry-run", "--runtime", "cpu", "-w", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert '"org.nnunet-box.challenge"="none"' in done.stdout
    assert "weights/3d_fullres/fold_0.safetensors" in done.stdout
    assert "entry_points" not in done.stdout
    with_one = CliRunner().invoke(app, [*arguments, "--challenge", "acdc"])
    assert '"org.nnunet-box.challenge"="acdc"' in with_one.stdout and "entry_points" in with_one.stdout


def test_an_imported_model_predicts_without_torch_and_scipy(tmp_path: Path) -> None:
    """As the CPU image does: a second process that cannot import them."""
    pytest.importorskip("openvino")
    bundle = imported(tmp_path)
    image = np.random.default_rng(0).normal(100, 30, size=(9, 18, 20)).astype(np.float32)
    write_nifti(tmp_path / "images" / "case_0000.nii.gz", image, Geometry(image.shape, (3.0, 1.2, 1.2)))
    program = """
import sys
from pathlib import Path
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "scipy", "SimpleITK", "typer", "rich"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from nnunet_box.bundle import load_bundle
from nnunet_box.inference.choose import network_loader
from nnunet_box.inference.ensemble import InferenceOptions
from nnunet_box.inference.folder import Predictor, exporter, input_cases, predict_folder
folder, source, output = map(Path, sys.argv[1:])
bundle = load_bundle(folder)
load, name = network_loader(bundle.plan, "openvino")
predictor = Predictor(bundle, bundle.ensemble(folder), load, InferenceOptions(), name)
predict_folder(predictor, input_cases(source, 1, None), output, exporter(None))
"""
    command = [sys.executable, "-c", program, str(bundle), str(tmp_path / "images"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = read_volume(tmp_path / "out" / "case.nii.gz").array
    expected = predict_like_nnunet(image, (3.0, 1.2, 1.2), TARGET, [random_weights()], (8, 16, 16))
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.999
