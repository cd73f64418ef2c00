"""Cases, folders and disks as they should not be: one message each, and the cases that are well come out."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from front_end_samples import SHAPE, make_model, record_of, voxels, write_image

from nnunet_box import files
from nnunet_box.bundle import load_bundle
from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import write_nifti
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.inference import entry, folder
from nnunet_box.inference.ensemble import InferenceOptions
from nnunet_box.inference.folder import CasesFailed, Predictor, exporter, input_cases, predict_folder
from nnunet_box.inference.mounts import check_readable, check_writable
from nnunet_box.inference.torch_runtime import choose_device, plan_network


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    model = make_model(tmp_path_factory.mktemp("model") / "bundle")
    bundle = load_bundle(model)
    load = partial(plan_network, plan=bundle.plan, device=choose_device("cpu"))
    return Predictor(bundle, bundle.ensemble(model), load, InferenceOptions(mirroring=False))


def run(predictor: Predictor, tmp_path: Path, **options):
    return predict_folder(predictor, input_cases(tmp_path / "in", 1, None), tmp_path / "out", exporter(None), **options)


def nan_image(file: Path) -> None:
    array = voxels()
    array[1, 2, 3] = np.nan
    write_nifti(file, array, Geometry(SHAPE, (1.0, 1.0, 1.0)))


def in_another_unit(file: Path) -> None:
    write_nifti(file, voxels(), Geometry(SHAPE, (1000.0, 1000.0, 1000.0)))


def two_channels(file: Path) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.ones((*SHAPE[::-1], 2), np.float32), np.eye(4)), file)


BAD = {
    "cut": (
        lambda file: file.write_bytes(write_image(file).read_bytes()[:2000]),
        "ends early|does not open|do not open",
    ),
    "text": (lambda file: file.write_text("not an image"), "NIfTI"),
    "nan": (nan_image, r"1 NaN or infinite, the first at \(1, 2, 3\)"),
    "unit": (in_another_unit, "a spacing near the plan's .* by which each voxel becomes 1e"),
    "two": (two_channels, "2 along the fourth axis"),
    "link": (lambda file: file.symlink_to("/nowhere/a.nii.gz"), "a link to /nowhere"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_case_does_not_cost_the_others(predictor: Predictor, tmp_path: Path, kind: str) -> None:
    spoil, message = BAD[kind]
    for name in ("a", "c"):
        write_image(tmp_path / "in" / f"{name}.nii.gz")
    spoil(tmp_path / "in" / "b.nii.gz")
    with pytest.raises(CasesFailed, match=message) as failure:
        run(predictor, tmp_path)
    assert failure.value.exit_code == InvalidData.exit_code
    assert "1 of 3 cases could not be predicted (b)" in str(failure.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz", "run.json"]
    written = record_of(tmp_path / "out")
    assert written["state"] == "failed"
    assert [("error" in case) for case in written["cases"]] == [False, True, False]
    assert "b.nii.gz" in written["cases"][1]["error"]
    # Put right, the same command goes on where it was.
    (tmp_path / "in" / "b.nii.gz").unlink()
    write_image(tmp_path / "in" / "b.nii.gz")
    again = run(predictor, tmp_path, resume=True)
    assert [case.get("skipped", False) for case in again["cases"]] == [True, False, True]
    assert again["state"] == "done"


def test_a_case_without_all_its_channels_does_not_cost_the_others(tmp_path: Path, capsys) -> None:
    model = make_model(tmp_path / "model", ("T2", "FLAIR"))
    for name in ("a_0000", "a_0001", "b_0001", "c_0000", "c_0001", "c_0002"):
        write_image(tmp_path / "in" / f"{name}.nii.gz")
    words = ["--bundle", model, "--input", tmp_path / "in", "--output", tmp_path / "out", "--no-mirroring"]
    assert entry.main([str(word) for word in words]) == InvalidData.exit_code
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "run.json"]
    errors = [case.get("error", "") for case in record_of(tmp_path / "out")["cases"]]
    assert "b_0001.nii.gz: expected 2 channels a case; found 1" in errors[1]
    assert "expected 2 channels a case; found 3" in errors[2]
    # As many channels as wanted, but others: a mistake in the names of the whole folder, and nothing to predict.
    (tmp_path / "in" / "c_0001.nii.gz").unlink()
    with pytest.raises(InvalidData, match=r"2 channels of c; found channels \[0, 2\]"):
        input_cases(tmp_path / "in", 2, None)


def test_the_only_case_gives_its_own_message(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    nan_image(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(InvalidData, match="NaN") as failure:
        run(predictor, tmp_path)
    assert failure.value.file == tmp_path / "in" / "a.nii.gz"


def test_a_failure_nobody_foresaw_costs_one_case(predictor: Predictor, tmp_path: Path, monkeypatch, capsys) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.nii.gz")
    real, calls = folder.predict_prepared, []

    def sometimes(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise ArithmeticError("odd")
        return real(*arguments)

    monkeypatch.setattr(folder, "predict_prepared", sometimes)
    with pytest.raises(CasesFailed, match=r"a\.nii\.gz: prediction failed \(ArithmeticError: odd\)") as failure:
        run(predictor, tmp_path)
    assert failure.value.exit_code == NnboxError.exit_code
    assert (tmp_path / "out" / "b.nii.gz").is_file()
    assert "in sometimes" in capsys.readouterr().err


def test_too_little_memory_is_said_and_costs_one_case(predictor: Predictor, tmp_path: Path, monkeypatch) -> None:
    write_image(tmp_path / "in" / "a.nii.gz")

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(folder, "predict_prepared", full)
    with pytest.raises(NnboxError, match="not enough memory for the prediction of 6 x 20 x 22 voxels"):
        run(predictor, tmp_path)


def test_a_model_that_cannot_be_loaded_ends_the_run(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.nii.gz")

    def damaged(member, weights):
        raise InvalidData(weights, "weights", "others", "Copy them again.")

    with pytest.raises(InvalidData, match="Copy them again"):
        run(Predictor(predictor.bundle, predictor.members, damaged, predictor.options), tmp_path)
    assert record_of(tmp_path / "out")["state"] == "failed"
    assert record_of(tmp_path / "out")["cases"] == []


def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(predictor: Predictor, tmp_path: Path, monkeypatch) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / "in" / f"{name}.nii.gz")
    real = files._sync

    def full(path: Path) -> None:
        if path.name == "b.nii.gz" or (tmp_path / "full").exists():
            (tmp_path / "full").touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path)

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(NnboxError, match=r"b\.nii\.gz: could not be written \(No space left on device\)") as failure:
        run(predictor, tmp_path)
    assert failure.value.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "run.json"]
    assert [case["file"] for case in record_of(tmp_path / "out")["cases"]] == ["a.nii.gz"]


def test_cases_of_one_name_are_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nii", "b.nii.gz"):
        write_image(tmp_path / name)
    with pytest.raises(InvalidData, match=r"another name for each case; found 2 named a: .*a\.nii, .*a\.nii\.gz"):
        input_cases(tmp_path, 1, None)


def test_predictions_of_one_name_are_refused(tmp_path: Path) -> None:
    class Adapter:
        def test_cases(self, place: Path, channels: int) -> tuple[SourceCase, ...]:
            file = (ChannelFile(place / "x.nii.gz"),)
            return tuple(SourceCase(name, name, file, output_name="same.nii.gz") for name in "ab")

    write_image(tmp_path / "x.nii.gz")
    with pytest.raises(InvalidData, match=r"another name for each output file; found 2 named same\.nii\.gz"):
        input_cases(tmp_path, 1, Adapter())


def test_an_adapter_that_finds_nothing(tmp_path: Path) -> None:
    class Adapter:
        def test_cases(self, place: Path, channels: int) -> tuple[SourceCase, ...]:
            return ()

    write_image(tmp_path / "x.nii.gz")
    with pytest.raises(InvalidData, match="expected cases to predict; found none"):
        input_cases(tmp_path, 1, Adapter())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda place: None,
            "found no such folder. Name the right folder; in a container, mount it: docker run -v TEST_FOLDER:",
        ),
        (lambda place: place.mkdir(), "found an empty folder"),
        (lambda place: (place / "x").mkdir(parents=True), "found none"),
    ],
)
def test_the_input_folder_is_looked_at_first(predictor: Predictor, tmp_path: Path, capsys, make, message) -> None:
    make(tmp_path / "in")
    model = predictor.members[0].weights[0].parents[2]
    words = ["--bundle", model, "--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu"]
    assert entry.main([str(word) for word in words]) == InvalidData.exit_code
    said = capsys.readouterr().err.strip()
    assert message in said
    assert str(tmp_path / "in") in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user may pass, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes on another user")
def test_what_a_user_may_not_read_or_write_is_said_with_its_number(open_place: Path) -> None:
    (open_place / "closed").mkdir(mode=0o700)
    (open_place / "out").mkdir(mode=0o755)
    os.seteuid(12345)
    try:
        with pytest.raises(InvalidData, match=r"closed: .* one that uid 12345 may not read"):
            check_readable(open_place / "closed")
        with pytest.raises(NnboxError, match=r"out: uid 12345 cannot write here \(Permission denied\).*--user"):
            check_writable(open_place / "out")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("folds", "loads"), [(1, 1), (2, 6)])
def test_a_network_that_is_alone_is_loaded_once_and_too_large_ones_one_at_a_time(
    predictor: Predictor, tmp_path: Path, monkeypatch, folds: int, loads: int
) -> None:
    monkeypatch.setattr(folder, "KEPT_BYTES", 0)
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.nii.gz")
    loaded = []

    def counted(member, weights):
        loaded.append(weights)
        return predictor.load_network(member, weights)

    member = predictor.members[0]
    members = [replace(member, weights=(member.weights[0],) * folds)]
    run(Predictor(predictor.bundle, members, counted, predictor.options), tmp_path)
    assert len(loaded) == loads
