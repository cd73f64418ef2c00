"""nnunetv2 itself beside us, in an environment of its own: ``make test-peer``.

``NNBOX_PEER_PYTHON`` names that environment's Python. Models that nnunetv2 trained are compared on real images where
``NNBOX_PEER_MODELS`` names a folder with ``DATASET/TRAINER__PLANS__CONFIGURATION`` in it and ``--real-data`` is there.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from nnunet_samples import DATASET, cascade_folders, configuration, old_form, plans, write_model
from scipy import ndimage

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import write_nifti

pytestmark = [pytest.mark.peer, pytest.mark.slow]
REPOSITORY = Path(__file__).resolve().parents[2]
AGREE = 0.9999
UNDECIDED = 0.999
"""Share of equal labels asked of a network with random weights, whose favourites are close in many voxels."""
MOST_CASES = 20


@pytest.fixture(scope="module")
def peer() -> Path:
    python = Path(os.environ.get("NNBOX_PEER_PYTHON", REPOSITORY / ".venv-peer" / "bin" / "python"))
    if not python.is_file():
        pytest.skip("no environment with nnunetv2: make test-peer")
    return python


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    """``benchmarks/nnunet_parity.py``."""
    spec = importlib.util.spec_from_file_location("nnunet_parity", REPOSITORY / "benchmarks" / "nnunet_parity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["nnunet_parity"] = module
    spec.loader.exec_module(module)
    return module


def put_images(folder: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float], masked: bool) -> Path:
    """Two smooth images, of a body in zeros where ``masked``."""
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(size=shape)
        image = (100 + 60 * ndimage.gaussian_filter(noise, 1.2) / 0.2).astype(np.float32)
        if masked:
            z, y, x = (np.linspace(-1, 1, size) for size in shape)
            image[z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 > 0.8] = 0
        write_nifti(folder / f"case{seed}_0000.nii.gz", image, Geometry(shape, spacing))
    return folder


CT = {"normalization_schemes": ["CTNormalization"]}
MASKED = {"use_mask_for_norm": [True]}
CASES = {
    "isotropic": ("3d_fullres", configuration(3), (0, 1, 2), (1.5, 1.2, 1.1), False),
    "apart": ("3d_fullres", configuration(3, (5.0, 1.0, 1.0)), (0, 1, 2), (8.0, 1.2, 0.9), False),
    "ct": ("3d_fullres", configuration(3) | CT, (0, 1, 2), (2.0, 1.0, 1.0), False),
    "masked": ("3d_fullres", configuration(3) | MASKED, (0, 1, 2), (1.7, 1.3, 1.1), True),
    "turned": ("3d_fullres", configuration(3, (2.0, 1.5, 1.0)), (2, 0, 1), (1.2, 1.1, 2.5), False),
    "2d": ("2d", configuration(2), (0, 1, 2), (4.0, 1.3, 1.2), False),
    "2d turned": ("2d", configuration(2), (1, 0, 2), (1.2, 4.0, 1.3), False),
    "old plans": ("3d_fullres", old_form(configuration(3)), (0, 1, 2), (2.0, 1.2, 1.0), False),
}


@pytest.mark.parametrize("name", CASES)
def test_tiny_models(name: str, tmp_path: Path, peer: Path, parity: ModuleType) -> None:
    model, entry, forward, spacing, masked = CASES[name]
    # Of the weights drawn, ones that give more than one label.
    folds = (4, 7) if model == "2d" else (0, 1)
    folder = write_model(tmp_path / "model", model, folds, plan=plans({model: entry}, forward), dataset=DATASET)
    images = put_images(tmp_path / "images", (14, 26, 30), spacing, masked)
    (tmp_path / "scratch").mkdir()
    job = parity.Job(peer, folder, images, mirroring=True, threads=1)
    result = parity.compare(job, tmp_path / "scratch")
    assert len({label for row in result["rows"] for label in row["labels"]}) > 1
    assert result["least_equal_share"] >= UNDECIDED


# With random weights a voxel that differs in the first stage's label map changes many around it.
@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (1.7, 1.2, 1.1)])
def test_a_tiny_cascade(spacing: tuple[float, float, float], tmp_path: Path, peer: Path, parity: ModuleType) -> None:
    first, second = cascade_folders(tmp_path / "results")
    images = put_images(tmp_path / "images", (14, 26, 30), spacing, masked=True)
    (tmp_path / "scratch").mkdir()
    job = parity.Job(peer, second, images, mirroring=False, threads=1, previous_stage=first)
    result = parity.compare(job, tmp_path / "scratch")
    assert len({label for row in result["rows"] for label in row["labels"]}) > 1
    assert result["least_equal_share"] >= UNDECIDED


def trained() -> list[Path]:
    root = Path(os.environ.get("NNBOX_PEER_MODELS", "."))
    return sorted(file.parent for file in root.glob("Dataset*/nnUNetTrainer__*/plans.json"))


@pytest.mark.real_data
@pytest.mark.parametrize("model", trained(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_trained_models_on_real_images(
    model: Path, tmp_path: Path, peer: Path, parity: ModuleType, real_data: Path
) -> None:
    images = {"Hippocampus": real_data / "MSD" / "Task04_Hippocampus" / "imagesTs"}
    found = next((folder for key, folder in images.items() if key in model.parent.name), None)
    if found is None or "cascade" in model.name:
        pytest.skip("no plain folder of its test images")
    job = parity.Job(peer, model, found, mirroring=False, most_cases=MOST_CASES, threads=1)
    result = parity.compare(job, tmp_path)
    assert result["cases"] == MOST_CASES
    assert result["least_equal_share"] >= AGREE
