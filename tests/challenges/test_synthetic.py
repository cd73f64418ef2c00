"""The synthetic cohort has ACDC's layout, headers and quirks, and hearts that look like hearts."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from nnbox_challenges.synthetic import GROUPS, LV, MYOCARDIUM, RV, write_acdc_cohort
from nnunet_box.errors import UsageError


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_acdc_cohort(folder, patients=10, test_patients=2, seed=3, size=48, slices=(5, 6))
    return folder


def info(patient: Path) -> dict[str, str]:
    return dict(line.split(": ") for line in (patient / "Info.cfg").read_text().splitlines())


def frame(patient: Path, phase: str) -> tuple[np.ndarray, np.ndarray]:
    stem = f"{patient.name}_frame{int(info(patient)[phase]):02d}"
    arrays = [np.asarray(nibabel.load(patient / f"{stem}{end}.nii.gz").dataobj) for end in ("", "_gt")]
    return arrays[0], arrays[1]


def training(cohort: Path) -> list[Path]:
    return sorted((cohort / "database" / "training").glob("patient*"))


def test_layout_is_acdcs(cohort):
    names = [patient.name for patient in training(cohort)]
    assert names == [f"patient{number:03d}" for number in range(1, 11)]
    for patient in training(cohort):
        facts = info(patient)
        assert set(facts) == {"ED", "ES", "Group", "Height", "NbFrame", "Weight"}
        frames = {f"{patient.name}_frame{int(facts[phase]):02d}" for phase in ("ED", "ES")}
        expected = {f"{name}{end}.nii.gz" for name in frames for end in ("", "_gt")}
        assert {path.name for path in patient.iterdir()} == expected | {"Info.cfg", "MANDATORY_CITATION.md"}
    assert {info(patient)["Group"] for patient in training(cohort)} == set(GROUPS)
    assert info(training(cohort)[8])["ED"] == "4"


def test_labels_of_test_patients_lie_apart(cohort):
    testing = cohort / "database" / "testing"
    assert sorted(path.name for path in testing.glob("patient*")) == ["patient101", "patient102"]
    assert not list(testing.rglob("*_gt*"))
    expected = [f"patient{number}_{phase}.nii.gz" for number in (101, 102) for phase in ("ED", "ES")]
    assert sorted(path.name for path in (cohort / "references").iterdir()) == expected


def test_headers_carry_spacing_only_in_pixdim(cohort):
    types = set()
    for file in sorted((cohort / "database" / "training").rglob("*.nii.gz")):
        header = nibabel.load(file).header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 2)
        assert np.array_equal(header.get_best_affine(), np.diag([-1, -1, 1, 1]))
        assert 2.0 < header.get_zooms()[0] < 2.9
        assert header.get_zooms()[2] in (8.0, 10.0)
        if not file.name.endswith("_gt.nii.gz"):
            types.add(str(header.get_data_dtype()))
    assert types == {"int16", "float32", "uint8"}


def test_hearts_are_hearts(cohort):
    for patient in training(cohort):
        volumes = {}
        for phase in ("ED", "ES"):
            image, labels = frame(patient, phase)
            assert set(np.unique(labels)) == {0, RV, MYOCARDIUM, LV}
            volumes[phase] = np.count_nonzero(labels == LV)
            for index in range(labels.shape[2]):
                ring = labels[..., index] >= MYOCARDIUM
                cavity = labels[..., index] == LV
                # A cavity that touches anything but muscle would leak.
                rim = ndimage.binary_dilation(cavity) & ~cavity
                assert np.all(labels[..., index][rim] == MYOCARDIUM)
                assert ndimage.label(ring)[1] <= 1
            blood, muscle = image[labels == LV].mean(), image[labels == MYOCARDIUM].mean()
            assert blood > 1.5 * muscle
        assert volumes["ES"] < volumes["ED"]


def test_ejection_fractions_follow_the_diagnosis(cohort):
    fraction = {}
    for patient in training(cohort):
        volume = {phase: np.count_nonzero(frame(patient, phase)[1] == LV) for phase in ("ED", "ES")}
        fraction.setdefault(info(patient)["Group"], []).append(1 - volume["ES"] / volume["ED"])
    mean = {group: np.mean(values) for group, values in fraction.items()}
    assert mean["DCM"] < mean["NOR"] < mean["HCM"]


def test_right_ventricle_is_missing_in_some_slices_but_never_in_a_volume(cohort):
    present = [[np.any(frame(patient, "ED")[1][..., z] == RV) for z in range(5)] for patient in training(cohort)]
    assert all(any(slices) for slices in present)
    assert not all(all(slices) for slices in present)


def test_same_seed_same_files_other_seed_other_voxels(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_acdc_cohort(tmp_path / name, patients=1, test_patients=1, seed=seed, size=32, slices=(3, 3))
    a, b, c = (
        {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in "abc"
    )
    assert set(a) == set(b)
    for relative, path in a.items():
        if path.name.endswith(".nii.gz"):
            first, second = nibabel.load(path), nibabel.load(b[relative])
            assert first.header == second.header
            assert np.array_equal(first.dataobj, second.dataobj)
    reference = Path("references/patient101_ED.nii.gz")
    assert not np.array_equal(nibabel.load(a[reference]).dataobj, nibabel.load(c[reference]).dataobj)


@pytest.mark.parametrize(
    "bad", [{"patients": 0}, {"patients": 101}, {"size": 8}, {"slices": (2, 4)}, {"slices": (6, 5)}]
)
def test_what_cannot_be_drawn_is_refused(tmp_path, bad):
    with pytest.raises(UsageError, match="A cohort has"):
        write_acdc_cohort(tmp_path, **bad)
    assert not list(tmp_path.iterdir())
