"""Predictions of two files: written header last, and finished only where both are there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nnbox_challenges.promise12 import Promise12
from nnunet_box.bundle import Bundle, write_bundle
from nnunet_box.dataset.metaimage import grid_fields, open_metaimage
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.inference import entry, jobs
from nnunet_box.inference.ensemble import InferenceOptions
from nnunet_box.inference.folder import Predictor, exporter, input_cases, is_written, predict_folder
from nnunet_box.inference.torch_runtime import choose_device, plan_network
from nnunet_box.network.unet import UNet
from nnunet_box.training.checkpoint import save_weights
from tests.challenges.tiny_promise12 import TEST, write_promise12
from tests.training.toys import VOLUME, toy_plan

NAMES = [f"Case{number:02d}.{suffix}" for number in TEST for suffix in ("mhd", "raw")]


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, Bundle]:
    save_weights(tmp_path / "fold_0.safetensors", UNet(VOLUME, 1, 3))
    written = write_bundle(
        tmp_path / "bundle",
        dataset="promise12",
        challenge="promise12",
        plan=toy_plan(),
        weights={"3d_fullres": {0: tmp_path / "fold_0.safetensors"}},
        postprocessing=Postprocessing(steps=()),
    )
    return tmp_path / "bundle", written


@pytest.fixture
def download(tmp_path: Path) -> Path:
    return write_promise12(tmp_path / "PROMISE12", "zenodo")


def predictor(bundle: tuple[Path, Bundle]) -> Predictor:
    load = partial(plan_network, plan=bundle[1].plan, device=choose_device("cpu"))
    return Predictor(bundle[1], bundle[1].ensemble(bundle[0]), load, InferenceOptions(mirroring=False))


def test_image_writes_pairs_for_images_and_none_for_references(
    bundle: tuple[Path, Bundle], download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "load_challenge", {"promise12": Promise12()}.__getitem__)
    arguments = ["--bundle", str(bundle[0]), "--input", str(download / "test_data"), "--output", str(tmp_path / "out")]
    assert entry.main([*arguments, "--no-mirroring", "--device", "cpu"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*NAMES, "run.json"]
    for name in NAMES[::2]:
        written, source = open_metaimage(tmp_path / "out" / name), open_metaimage(download / "test_data" / name)
        assert grid_fields(written) == grid_fields(source)
        assert written.dtype == np.uint8


def test_resume_takes_no_half_pair_for_a_finished_case(
    bundle: tuple[Path, Bundle], download: Path, tmp_path: Path
) -> None:
    cases = input_cases(download / "test_data", 1, Promise12())
    out = tmp_path / "out"
    run = partial(predict_folder, predictor(bundle), cases, out, exporter(Promise12()))
    run()
    whole = {path.name: path.read_bytes() for path in out.iterdir()}

    def skipped() -> list[bool]:
        return [record.get("skipped", False) for record in run(resume=True)["cases"]]

    assert skipped() == [True, True, True]
    (out / "Case00.raw").unlink()
    (out / "Case01.mhd").unlink()
    assert skipped() == [False, False, True]
    (out / "Case04.raw").write_bytes(whole["Case04.raw"][:-1])
    assert skipped() == [True, True, False]
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name in NAMES} == {
        name: whole[name] for name in NAMES
    }


def test_what_counts_as_written(download: Path, tmp_path: Path) -> None:
    assert is_written(download / "test_data" / "Case00.mhd")
    assert not is_written(tmp_path / "Case00.mhd")
    (tmp_path / "a.nii.gz").touch()
    assert is_written(tmp_path / "a.nii.gz")


def test_a_damaged_challenge_folder_is_not_taken_for_a_plain_one(download: Path, tmp_path: Path) -> None:
    (download / "test_data" / "Case00.mhd").unlink()
    with pytest.raises(InvalidData, match=r"Case00\.mhd: expected the header of Case00\.raw"):
        input_cases(download / "test_data", 1, Promise12())
