"""A folder in which what the documentation says can be typed, as if its reader had a small download of ACDC."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnbox_challenges.acdc_layout import find_patients
from nnbox_challenges.synthetic import write_acdc_cohort
from tests.challenges.tiny_downloads import write_decathlon
from tests.docs.documented import REPOSITORY, blocks
from tests.e2e.e2e_run import nnbox
from tests.importing.nnunet_samples import write_model

FINGERPRINT = {
    "spacings": [[3.6, 0.625, 0.625]],
    "sizes": [[20, 320, 320]],
    "cases": 32,
    "modalities": ["T2", "ADC"],
    "foreground_classes": 2,
    "size_after_crop_ratio": 1.0,
}


def run(folder: Path, line: str):
    """``nnbox`` with the words of a line, in a folder."""
    with contextlib.chdir(folder):
        return nnbox(*line.split()[1:])


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder: ACDC's download with the test patients' labels, models and data of nnU-Net v2, a profile."""
    folder = tmp_path_factory.mktemp("reader")
    write_acdc_cohort(folder / "ACDC", patients=10, test_patients=1, seed=5, size=32, slices=(4, 5))
    (folder / "ACDC" / "references").rename(folder / "references")
    for patient in find_patients(folder / "ACDC" / "database"):
        for phase, frame in patient.phases().items() if patient.split == "test" else ():
            image = patient.frames[frame]
            shutil.copyfile(
                folder / "references" / f"{patient.id}_{phase}.nii.gz", image.with_name(f"{image.name[:-7]}_gt.nii.gz")
            )
    ended = run(folder, "nnbox convert --challenge acdc ACDC/database --workspace raw")
    assert ended.code == 0, ended.err
    for name in ("nnUNet_raw/Dataset027_ACDC", "Dataset101_Kidneys"):
        shutil.copytree(folder / "raw" / "datasets" / "acdc", folder / name)
        (folder / name / "cases.json").unlink()
    for name in ("nnUNet_results/Dataset027_ACDC", "."):
        write_model(folder / name / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    write_decathlon(folder / "Task04_Hippocampus", ids=[f"hippocampus_{number:03d}" for number in range(1, 6)])
    (folder / "images").mkdir()
    image = np.random.default_rng(3).normal(100, 20, (20, 20, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1.0, 1.0, 2.0, 1.0])), folder / "images" / "one_0000.nii.gz")
    (folder / "fingerprint.json").write_text(json.dumps(FINGERPRINT))
    (profile,) = (text for language, text in blocks("docs/howto-own-challenge.md") if language == "toml")
    (folder / "our-lab.toml").write_text(profile)
    return folder


@pytest.fixture(scope="session")
def trained(place: Path) -> Path:
    """The same folder with both configurations trained by one update each, and the test patients predicted."""
    for line in (
        "nnbox convert --challenge acdc ACDC/database",
        "nnbox train-all acdc --epochs 1 --batches-per-epoch 1 --workers 0 --device cpu --folds 0",
        "nnbox predict nnbox/bundles/acdc ACDC/database/testing predicted --device cpu",
    ):
        ended = run(place, line)
        assert ended.code == 0, ended.err
    return place


@pytest.fixture
def kidneys(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter of ``challenges/README.md`` installed, and an export of its clinic."""
    code = next(text for language, text in blocks("challenges/README.md") if language == "python")
    entry = re.search(r'kidneys = "(our_challenges:Kidneys)"', (REPOSITORY / "challenges" / "README.md").read_text())
    assert entry is not None
    metadata = trained / "site" / "our_challenges-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (trained / "site" / "our_challenges.py").write_text(code)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: our-challenges\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[nnunet_box.challenges]\nkidneys = {entry[1]}\n")
    monkeypatch.syspath_prepend(str(trained / "site"))
    export = trained / "export"
    export.mkdir(exist_ok=True)
    for number in range(2):
        values = np.arange(8 * 8 * 4, dtype=np.int16).reshape(8, 8, 4) + number
        for name, array in ((f"scan{number}", values), (f"scan{number}-mask", (values > 40).astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), export / f"{name}.nii.gz")
