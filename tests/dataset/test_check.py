"""The data set doctor: one oddity planted at a time, in a data set that is otherwise sound."""

from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nnunet_box.cli import convert
from nnunet_box.dataset.cases import CaseRecord, CasesFile
from nnunet_box.dataset.check import check_dataset
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.repair import repair_dataset
from nnunet_box.dataset.volumes import read_volume, save_nifti
from nnunet_box.errors import InvalidData, UsageError

SHAPE = (3, 4, 5)
SPACING = (2.5, 0.8, 0.7)
GRID = Geometry(SHAPE, SPACING, (-10.0, 4.0, 2.5))
CASES = [f"case{index:02d}" for index in range(12)]

app = typer.Typer()
convert.register(app)


def image_of(seed):
    return np.random.default_rng(seed).integers(-500, 500, SHAPE).astype(np.int16)


def label_of(seed, values=(1, 2)):
    labels = np.zeros(SHAPE, np.uint8)
    labels.ravel()[np.random.default_rng(seed).permutation(labels.size)[: len(values)]] = values
    return labels


@pytest.fixture(scope="module")
def _sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "toy"
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    for seed, case in enumerate(CASES):
        save_nifti(image(folder, case), image_of(seed), GRID)
        save_nifti(label(folder, case), label_of(seed), GRID)
    save_nifti(folder / "imagesTs" / "test00_0000.nii.gz", image_of(99), GRID)
    declared = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(declared))
    return folder


@pytest.fixture
def toy(_sound, tmp_path):
    """Twelve cases of one channel with labels 1 and 2, a test case, no cases.json."""
    return shutil.copytree(_sound, tmp_path / "ws" / "datasets" / "toy")


def image(folder, case):
    return folder / "imagesTr" / f"{case}_0000.nii.gz"


def label(folder, case):
    return folder / "labelsTr" / f"{case}.nii.gz"


def write_cases(folder, groups, raters=None):
    records = [
        CaseRecord(
            id=case,
            group=groups.get(case, case),
            rater=(raters or {}).get(case),
            split="train",
            source_images=[],
            output_name=f"{case}.nii.gz",
            geometry=GRID,
            header={},
        )
        for case in CASES
    ]
    content = CasesFile(challenge=None, source="here", cases=records).model_dump(mode="json")
    (folder / "cases.json").write_text(json.dumps(content))


def set_forms(file, qform=None, sform=None, pixdim=None):
    """Change what the header says about space, and nothing else."""
    source = nibabel.load(file)
    header, voxels = source.header.copy(), np.asanyarray(source.dataobj).copy()
    changed = nibabel.Nifti1Image(voxels, None, header)
    for form, setter in ((qform, changed.set_qform), (sform, changed.set_sform)):
        if form is not None:
            setter(*form)
    if pixdim is not None:
        changed.header["pixdim"][1:4] = pixdim
    nibabel.save(changed, file)


def only(findings):
    (finding,) = findings
    assert finding.expected and finding.found and finding.fix
    return finding


def test_a_sound_data_set_has_no_findings(toy):
    assert check_dataset(toy) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(toy, value):
    bad = image_of(3).astype(np.float32)
    bad[1, 2, 3] = value
    save_nifti(image(toy, "case03"), bad, GRID)
    finding = only(check_dataset(toy))
    assert (finding.severity, finding.file) == ("error", str(image(toy, "case03")))
    assert "(1, 2, 3)" in finding.found


def test_undeclared_label_value(toy):
    save_nifti(label(toy, "case03"), label_of(3, (1, 2, 7)), GRID)
    finding = only(check_dataset(toy))
    assert finding.severity == "error" and "undeclared [7]" in finding.found


def test_label_between_two_values(toy):
    labels = label_of(3).astype(np.float32)
    labels[labels == 2] = 1.5
    save_nifti(label(toy, "case03"), labels, GRID)
    finding = only(check_dataset(toy))
    assert finding.severity == "error" and finding.found == "1.5"


def test_label_of_another_shape(toy):
    save_nifti(label(toy, "case03"), label_of(3)[:, :, :4], Geometry((3, 4, 4), SPACING, GRID.origin))
    finding = only(check_dataset(toy))
    assert finding.severity == "error" and "(3, 4, 4)" in finding.found


def test_structure_that_no_case_has(toy):
    for seed, case in enumerate(CASES):
        save_nifti(label(toy, case), label_of(seed, (1,)), GRID)
    finding = only(check_dataset(toy))
    assert (finding.severity, finding.file) == ("warning", str(toy / "dataset.json"))
    assert "label 2 (tumour)" in finding.expected


def test_structure_that_one_case_lacks_and_one_that_many_lack(toy):
    save_nifti(label(toy, "case03"), label_of(3, (1,)), GRID)
    finding = only(check_dataset(toy))
    assert finding.file == str(label(toy, "case03"))
    assert "label 2 (tumour), as in 11 of 12 cases" in finding.expected
    save_nifti(label(toy, "case04"), label_of(4, (1,)), GRID)
    assert check_dataset(toy) == [], "a tumour that many lack is no oddity"


def test_label_map_of_background_is_told_once(toy):
    save_nifti(label(toy, "case03"), label_of(3, ()), GRID)
    assert only(check_dataset(toy)).found == "background only"


def test_the_same_image_twice_in_training_whatever_its_type(toy):
    save_nifti(image(toy, "case07"), image_of(3).astype(np.float32), GRID)
    finding = only(check_dataset(toy))
    assert finding.file == str(image(toy, "case07"))
    assert finding.found == "the voxels of case03"


def test_a_training_image_among_the_test_images(toy):
    save_nifti(toy / "imagesTs" / "test00_0000.nii.gz", image_of(3), GRID)
    finding = only(check_dataset(toy))
    assert finding.file == str(toy / "imagesTs" / "test00_0000.nii.gz")
    assert finding.found == "the voxels of case03 in the training set"


@pytest.mark.parametrize(
    ("group", "raters", "findings"),
    [
        ("patient3", {"case03": "1", "case07": "2"}, 0),
        ("patient3", {"case03": "1", "case07": "1"}, 1),
        ("patient3", {}, 1),
        ("patient7", {"case03": "1", "case07": "2"}, 1),
    ],
)
def test_one_scan_with_two_raters_is_no_duplicate(toy, group, raters, findings):
    save_nifti(image(toy, "case07"), image_of(3), GRID)
    write_cases(toy, {"case03": "patient3", "case07": group}, raters)
    assert len(check_dataset(toy)) == findings


def test_the_same_image_as_two_channels(toy):
    declared = json.loads((toy / "dataset.json").read_text())
    (toy / "dataset.json").write_text(json.dumps({**declared, "channel_names": {"0": "T2", "1": "ADC"}}))
    for seed, case in enumerate(CASES):
        save_nifti(toy / "imagesTr" / f"{case}_0001.nii.gz", image_of(3 if seed == 3 else 200 + seed), GRID)
    save_nifti(toy / "imagesTs" / "test00_0001.nii.gz", image_of(300), GRID)
    finding = only(check_dataset(toy))
    assert finding.file == str(toy / "imagesTr" / "case03_0001.nii.gz")
    assert finding.found == "the voxels of case03_0000.nii.gz"


def test_orientation_unlike_the_others(toy):
    turned = Geometry(SHAPE, SPACING, GRID.origin, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    for seed in (3, 5):
        save_nifti(image(toy, CASES[seed]), image_of(seed), turned)
        save_nifti(label(toy, CASES[seed]), label_of(seed), turned)
    finding = only(check_dataset(toy))
    assert finding.file == str(image(toy, "case03"))
    assert (finding.expected, finding.found) == ("axes LPS as 11 of 13 cases", "RAS, as in 1 more")


@pytest.mark.parametrize(
    ("spacing", "told"), [((7.5, 0.8, 0.7), True), ((2.5, 0.8, 0.2), True), ((5.0, 0.9, 0.6), False)]
)
def test_spacing_unlike_the_others(toy, spacing, told):
    grid = Geometry(SHAPE, spacing, GRID.origin)
    save_nifti(image(toy, "case03"), image_of(3), grid)
    save_nifti(label(toy, "case03"), label_of(3), grid)
    findings = check_dataset(toy)
    assert [finding.file for finding in findings] == ([str(image(toy, "case03"))] if told else [])
    assert all("2.5 x 0.8 x 0.7 mm" in finding.expected for finding in findings)


def test_a_header_that_was_never_filled_in(toy):
    for direction in ((1.0, 1.0), (-1.0, -1.0)):
        grid = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (direction[0], 0, 0, 0, direction[1], 0, 0, 0, 1.0))
        save_nifti(image(toy, "case03"), image_of(3), grid)
        save_nifti(label(toy, "case03"), label_of(3), grid)
        findings = [finding for finding in check_dataset(toy) if "never filled in" in finding.found]
        assert only(findings).file == str(image(toy, "case03"))


def test_a_header_without_origin_is_no_oddity_where_all_scans_have_one_millimetre(toy):
    for seed, case in enumerate(CASES):
        grid = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0) if seed == 3 else GRID.origin)
        save_nifti(image(toy, case), image_of(seed), grid)
        save_nifti(label(toy, case), label_of(seed), grid)
    assert check_dataset(toy) == []


def test_a_fold_that_shares_a_patient(toy, tmp_path):
    write_cases(toy, {"case00": "patient0", "case01": "patient0"})
    splits = tmp_path / "splits.json"
    folds = [{"train": [c for c in CASES if c not in CASES[k::4]], "val": CASES[k::4]} for k in range(4)]
    splits.write_text(json.dumps(folds))
    finding = only(check_dataset(toy, splits))
    assert (finding.severity, finding.file) == ("error", str(splits))
    assert "['patient0'] on both sides of fold 0" in finding.found
    write_cases(toy, {})
    assert check_dataset(toy, splits) == []


@pytest.mark.parametrize("content", ['{"train": []}', '[{"train": ["case00"]}]', "[3]"])
def test_splits_that_are_no_folds(toy, tmp_path, content):
    (tmp_path / "splits.json").write_text(content)
    finding = only(check_dataset(toy, tmp_path / "splits.json"))
    assert finding.severity == "error" and "a list of folds" in finding.expected


# What --fix repairs.


def float_label(toy):
    save_nifti(label(toy, "case03"), label_of(3).astype(np.float32), GRID)
    return label(toy, "case03"), "float32"


def moved_label(toy):
    save_nifti(label(toy, "case03"), label_of(3), Geometry(SHAPE, SPACING, (0.0, 0.0, 0.0)))
    return label(toy, "case03"), "origin"


def forms_apart(toy):
    other = GRID.affine_ras()
    other[:3, 3] += 50
    set_forms(image(toy, "case03"), qform=(other, 1))
    return image(toy, "case03"), "qform and sform disagreed"


def unit_affine(toy):
    for file in (image(toy, "case03"), label(toy, "case03")):
        unit = np.diag([-1.0, -1.0, 1.0, 1.0])
        unit[:3, 3] = GRID.affine_ras()[:3, 3]
        set_forms(file, qform=(None, 0), sform=(unit, 2), pixdim=SPACING[::-1])
    return image(toy, "case03"), "affine disagreed with pixdim"


def no_forms(toy):
    set_forms(image(toy, "case03"), qform=(None, 0), sform=(None, 0))
    return image(toy, "case03"), "no qform or sform"


@pytest.mark.parametrize("plant", [float_label, moved_label, forms_apart, unit_affine, no_forms])
def test_told_and_repaired_with_voxels_and_spacing_as_they_were(toy, plant):
    file, found = plant(toy)
    told = [finding for finding in check_dataset(toy) if finding.fixable]
    assert any(finding.file == str(file) and found in finding.found for finding in told)
    assert all(finding.severity == "warning" for finding in told)
    before = {path: path.read_bytes() for path in toy.rglob("*.nii.gz") if "case03" not in path.name}
    done = repair_dataset(load_dataset(toy), toy.parents[1])
    assert any(str(file) in line for line in done)
    left = check_dataset(toy)
    # Without any form nothing says which way the patient lies: that stays for a person to look at.
    assert all("axes" in finding.expected for finding in left) and len(left) == (plant is no_forms)
    assert np.array_equal(read_volume(image(toy, "case03")).array, image_of(3))
    assert np.array_equal(read_volume(label(toy, "case03")).array, label_of(3))
    assert read_volume(label(toy, "case03")).array.dtype == np.uint8
    assert read_volume(image(toy, "case03")).geometry.spacing == pytest.approx(SPACING)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert repair_dataset(load_dataset(toy), toy.parents[1]) == []


def test_repair_leaves_alone_what_it_cannot_judge(toy):
    labels = label_of(3, (1, 7)).astype(np.float32)
    save_nifti(label(toy, "case03"), labels, GRID)
    before = label(toy, "case03").read_bytes()
    assert repair_dataset(load_dataset(toy), toy.parents[1]) == []
    assert label(toy, "case03").read_bytes() == before
    assert "undeclared [7]" in only(check_dataset(toy)).found


def test_a_download_is_never_repaired(toy, tmp_path):
    file, _ = float_label(toy)
    before = file.read_bytes()
    with pytest.raises(UsageError, match="the workspace's copies only"):
        repair_dataset(load_dataset(toy), tmp_path / "elsewhere")
    linked = tmp_path / "other" / "datasets" / "linked"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(toy)
    with pytest.raises(UsageError, match="the workspace's copies only"):
        repair_dataset(load_dataset(linked), tmp_path / "other")
    linked.unlink()
    linked.mkdir()
    (linked / "dataset.json").write_text((toy / "dataset.json").read_text())
    for name in ("imagesTr", "labelsTr"):
        (linked / name).symlink_to(toy / name)
    with pytest.raises(UsageError, match="the workspace's copies only"):
        repair_dataset(load_dataset(linked), tmp_path / "other")
    assert file.read_bytes() == before


def test_a_link_to_a_file_of_the_download_is_replaced_and_the_file_stays(toy, tmp_path):
    file, _ = float_label(toy)
    download = tmp_path / "download.nii.gz"
    file.rename(download)
    file.symlink_to(download)
    before = download.read_bytes()
    assert repair_dataset(load_dataset(toy), toy.parents[1])
    assert download.read_bytes() == before and not file.is_symlink()


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_findings_as_json_and_repairs(toy):
    workspace = toy.parents[1]
    float_label(toy)
    result = invoke("check", "toy", "--workspace", workspace, "--json")
    (finding,) = json.loads(result.stdout)
    assert result.exit_code == 0
    assert finding == {
        "severity": "warning",
        "file": str(label(toy, "case03")),
        "expected": "a label map of integers",
        "found": "float32",
        "fix": finding["fix"],
        "fixable": True,
    }
    assert "--fix" in finding["fix"]
    result = invoke("check", "toy", "--workspace", workspace, "--fix", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_the_command_ends_with_three_over_an_error_and_looks_at_the_workspaces_splits(toy):
    workspace = toy.parents[1]
    splits = workspace / "preprocessed" / "toy" / "splits.json"
    splits.parent.mkdir(parents=True)
    splits.write_text(json.dumps([{"train": CASES[1:], "val": ["nobody"]}]))
    result = invoke("check", "toy", "--workspace", workspace)
    assert result.exit_code == 3
    assert f"error: {splits}" in result.stdout and "nobody" in result.stdout


def test_the_command_refuses_to_repair_a_path_outside(toy, tmp_path):
    result = invoke("check", toy, "--workspace", tmp_path / "elsewhere", "--fix")
    assert isinstance(result.exception, UsageError)


def test_folds_that_cannot_be_read_are_refused_by_training_too(toy, tmp_path):
    from nnunet_box.dataset.splits import load_or_make_folds

    (tmp_path / "splits.json").write_text("[3]")
    with pytest.raises(InvalidData, match="a list of folds"):
        load_or_make_folds(tmp_path / "splits.json", load_dataset(toy))
