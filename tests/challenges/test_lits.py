"""LiTS: every layout, every oddity of its headers, and the way back to the source's voxels and header."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from lits_downloads import SHAPE, SPACING, SWAPPED, liver, relayout, save, write_big, write_lits
from tiny_downloads import truncate, write_decathlon

from nnbox_challenges.lits import Lits
from nnbox_challenges.lits_layout import LITS_SPACING_MM
from nnunet_box.dataset.cases import read_image
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.volumes import read_volume
from nnunet_box.errors import InvalidData

TRAINING = ["volume-0", "volume-3", "volume-28", "volume-29", "volume-30"]
TEST = ["test-volume-2", "test-volume-10", "test-volume-59"]

MEASURES = """
import sys
from pathlib import Path
from nnbox_challenges.lits import Lits

Lits().convert(Lits().recognise(Path(sys.argv[1])), Path(sys.argv[2]), workers=1)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture
def lits(tmp_path):
    return write_lits(tmp_path / "download" / "LITS")


def ids(cases):
    return [case.id for case in cases]


def records_of(folder):
    return {record["id"]: record for record in json.loads((folder / "cases.json").read_text())["cases"]}


@pytest.mark.parametrize("how", ["batches", "flat", "nested", "doubled", "folders", "gz"])
def test_every_layout_in_circulation(lits, converted, how):
    source = lits if how == "batches" else relayout(lits, how)
    recognition = Lits().recognise(source)
    assert (ids(recognition.training), ids(recognition.test)) == (TRAINING, TEST)
    assert recognition.messages[0] == "5 of 131 training cases, 3 of 70 test cases"
    dataset = load_dataset(converted(Lits(), source))
    assert sorted(ids(dataset.cases)) == sorted(TRAINING)
    for case in dataset.cases:
        number = int(case.id.split("-")[1])
        assert np.array_equal(read_volume(case.label).array.transpose(2, 1, 0), liver(seed=number))
    names = [case.output_name for case in Lits().test_cases(source, 1)]
    assert names == ["test-segmentation-2.nii", "test-segmentation-10.nii", "test-segmentation-59.nii"]


def test_test_folder_alone_and_training_folder_alone(lits):
    test = lits / "LITS-Challenge-Test-Data"
    save(test / "test-segmentation-2.nii", liver())
    assert ids(Lits().test_cases(test, 1)) == TEST
    with pytest.raises(InvalidData, match="3 test volumes only"):
        Lits().recognise(test)
    assert ids(Lits().test_cases(lits / "Training Batch 1", 1)) == TRAINING[:2]
    assert any("1 test segmentations stay out" in message for message in Lits().recognise(lits).messages)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Task03_Liver/imagesTr/liver_0.nii.gz", "Task03_Liver"),
        ("Dataset003/imagesTr/volume-0_0000.nii.gz", "nnU-Net raw data set"),
        ("ircad/3Dircadb1.1/x.txt", "3D-IRCADb"),
        ("lits/slices/volume-0_slice_1.h5", "preprocessed re-pack"),
        ("scans/me.nii.gz", "scans"),
    ],
)
def test_lookalikes_are_refused_with_the_reason(tmp_path, name, found):
    path = tmp_path / "x" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x00")
    for ask in (Lits().recognise, lambda folder: Lits().test_cases(folder, 1)):
        with pytest.raises(InvalidData) as raised:
            ask(tmp_path / "x")
        assert found in raised.value.found


def test_the_decathlons_liver_is_told_where_it_belongs(tmp_path):
    root = write_decathlon(tmp_path / "Task03_Liver", ids=["liver_0", "liver_1"], test=["liver_132"])
    with pytest.raises(InvalidData, match="--challenge decathlon"):
        Lits().recognise(root)


def test_halves_and_doubles_are_refused(lits):
    shutil.copy(lits / "Training Batch 1" / "volume-0.nii", lits / "Training Batch 2" / "volume-0.nii")
    with pytest.raises(InvalidData, match="volume-0 once"):
        Lits().recognise(lits)
    (lits / "Training Batch 2" / "volume-0.nii").unlink()
    (lits / "Training Batch 1" / "segmentation-3.nii").unlink()
    with pytest.raises(InvalidData, match="segmentation-3 beside it"):
        Lits().recognise(lits)


def test_repairs_are_on_the_copy_and_recorded(lits, converted):
    folder = converted(Lits(), lits)
    records = records_of(folder)
    shapes = {}
    for case, spacing, words in (
        ("volume-28", SPACING, "spacing of the segmentation's header: 0.75 x 0.75 x 2.5"),
        ("volume-29", LITS_SPACING_MM[::-1], "assumed spacing"),
        ("test-volume-59", SPACING, "axes exchanged: slices along Z instead of the stored 8 x 5 x 8"),
    ):
        part = "imagesTs" if case.startswith("test") else "imagesTr"
        image = nibabel.load(folder / part / f"{case}_0000.nii.gz")
        shapes[case] = image.shape
        assert np.allclose(image.header.get_zooms(), spacing)
        assert np.allclose(np.linalg.norm(image.affine[:3, :3], axis=0), spacing)
        assert words in records[case]["repairs"][0]
    assert set(shapes.values()) == {SHAPE}
    assert records["test-volume-59"]["geometry"]["shape"] == [8, 5, 8]
    assert records["test-volume-59"]["repair"]["axes"] == [1, 0, 2]
    for case in ("volume-0", "volume-30", "test-volume-2"):
        assert records[case]["repair"]["reasons"] == []
    given = Lits(spacings={"volume-29": (5.0, 0.6, 0.6)}).recognise(lits)
    assert next(case for case in given.training if case.id == "volume-29").repair.spacing == (5.0, 0.6, 0.6)


def test_the_repaired_voxel_stays_where_it_is_in_the_body(lits, converted):
    case = next(case for case in Lits().test_cases(lits, 1) if case.id == f"test-volume-{SWAPPED}")
    image, grid = read_image(case)
    stored = nibabel.load(case.reference_file)
    assert np.array_equal(image[0].transpose(2, 1, 0), np.asanyarray(stored.dataobj).swapaxes(1, 2))
    # stored (x, y, z) is repaired (x, z, y)
    assert np.allclose(grid.affine_ras() @ (3, 4, 2, 1), stored.affine @ (3, 2, 4, 1))
    copy = nibabel.load(converted(Lits(), lits) / "imagesTs" / f"{case.id}_0000.nii.gz")
    assert np.array_equal(np.asanyarray(copy.dataobj), image[0].transpose(2, 1, 0))
    assert np.allclose(copy.affine, grid.affine_ras(), atol=1e-4)


def test_round_trip_of_every_oddity(lits, converted, tmp_path):
    """Converted labels, exported through the cases of ``test_cases``, are the originals voxel by voxel."""
    labels, out = converted(Lits(), lits) / "labelsTr", tmp_path / "out"
    for batch in ("Training Batch 1", "Training Batch 2"):
        for case in Lits().test_cases(lits / batch, 1):
            file = Lits().export(read_volume(labels / f"{case.id}.nii.gz").array, case, out)
            written, image = nibabel.load(file), nibabel.load(case.reference_file)
            original = np.asanyarray(nibabel.load(case.reference_file.with_name(case.output_name)).dataobj)
            assert np.array_equal(np.asanyarray(written.dataobj), original.reshape(SHAPE))
            assert written.get_data_dtype() == np.uint8
            assert np.array_equal(written.affine, image.affine)
            for field in ("pixdim", "qform_code", "sform_code", "srow_x", "quatern_b", "xyzt_units"):
                assert np.array_equal(written.header[field], image.header[field]), field
    for mode in Lits.modes:
        result = Lits().evaluate(out, lits, mode)
        assert result["cases"] == 5 and result["missing"] == []
        assert result["lesion"]["dice_per_case"] == result["liver"]["dice_global"] == result["lesion"]["recall"] == 1.0
        assert result["liver"]["msd"] == 0.0


def test_round_trip_of_exchanged_axes(lits, tmp_path):
    case = next(case for case in Lits().test_cases(lits, 1) if case.id == f"test-volume-{SWAPPED}")
    reference = save(tmp_path / "ref" / case.output_name, liver().swapaxes(1, 2), (SPACING[0], SPACING[2], SPACING[1]))
    file = Lits().export(liver().transpose(2, 1, 0), case, tmp_path / "out")
    written, image = nibabel.load(file), nibabel.load(case.reference_file)
    assert np.array_equal(np.asanyarray(written.dataobj), np.asanyarray(nibabel.load(reference).dataobj))
    assert np.array_equal(written.header["pixdim"], image.header["pixdim"])
    assert np.array_equal(written.affine, image.affine)
    assert Lits().evaluate(tmp_path / "out", tmp_path / "ref")["lesion"]["dice_global"] == 1.0


def test_workers_change_nothing(lits, tmp_path):
    recognition = Lits().recognise(lits)
    for workers in (1, 2):
        Lits().convert(recognition, tmp_path / str(workers), workers=workers)
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file())
    assert len(files) == 16
    assert all((tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes() for file in files)


def test_a_repaired_case_goes_on_after_an_error_and_others_are_not_done_twice(lits, tmp_path, capsys):
    broken = lits / "LITS-Challenge-Test-Data" / "test-volume-10.nii"
    whole = broken.read_bytes()
    recognition = Lits().recognise(lits)
    truncate(broken, 0.9)
    destination = tmp_path / "ws" / "lits"
    with pytest.raises(InvalidData, match="data that ends early"):
        Lits().convert(recognition, destination)
    assert not destination.exists()
    assert "6 finished cases are kept" in capsys.readouterr().err
    partial = next(destination.parent.iterdir()) / "content"
    times = {path: path.stat().st_ino for path in partial.rglob("*.nii.gz")}
    assert not (partial / "imagesTs" / "test-volume-10_0000.nii.gz").exists()
    broken.write_bytes(whole)
    changed = lits / "Training Batch 1" / "volume-0.nii"
    save(changed, np.zeros(SHAPE, np.int16))
    Lits().convert(Lits().recognise(lits), destination)
    assert [path.name for path in destination.parent.iterdir()] == ["lits"]
    assert not read_volume(destination / "imagesTr" / "volume-0_0000.nii.gz").array.any()
    kept = [path for path, inode in times.items() if (destination / path.relative_to(partial)).stat().st_ino == inode]
    assert len(kept) >= len(times) - 2
    fresh = tmp_path / "fresh"
    Lits().convert(Lits().recognise(lits), fresh)
    files = [path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()]
    assert all((fresh / file).read_bytes() == (destination / file).read_bytes() for file in files)


@pytest.mark.slow
def test_a_volume_of_real_size_fits_in_one_and_a_half_times_its_bytes(tmp_path):
    size = write_big(tmp_path / "big")
    arguments = [sys.executable, "-c", MEASURES, str(tmp_path / "big"), str(tmp_path / "set")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    peak = int(done.stdout) * 1024
    assert peak <= 1.5 * size, f"{peak / 2**20:.0f} MiB for a volume of {size / 2**20:.0f} MiB"
    assert read_volume(Path(tmp_path / "set" / "imagesTr" / "volume-0_0000.nii.gz")).array[599, 150, 170] == 599
    print(f"peak {peak / 2**20:.0f} MiB")


def test_one_damaged_test_volume_is_one_cases_affair(tmp_path):
    root = write_lits(tmp_path / "LiTS") / "LITS-Challenge-Test-Data"
    (root / "test-volume-10.nii").write_bytes(b"<html>")
    cases = Lits().test_cases(root, 1)
    assert [case.id for case in cases] == ["test-volume-2", "test-volume-10", "test-volume-59"]
    assert cases[2].repair.reasons
