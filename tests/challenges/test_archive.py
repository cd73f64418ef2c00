"""Upload archives: what nnbox writes is taken, and every way of spoiling one is named with file and reason."""

from __future__ import annotations

import gzip
import json
import os
import stat
import struct
import sys
import warnings
import zipfile
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from tiny_downloads import SHAPE, labels_of, write_decathlon

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.decathlon import Decathlon
from nnunet_box.cli.app import main
from nnunet_box.errors import InvalidData
from nnunet_box.submission.archive import build_archive
from nnunet_box.submission.verify import verify_archive

FIRST = "patient101_ED.nii.gz"
NAMES = [f"patient{number}_{phase}.nii.gz" for number in (101, 102) for phase in ("ED", "ES")]


@pytest.fixture
def predictions(acdc, tmp_path):
    """Predictions of the test patients, with what lies beside them after nnbox predict."""
    folder = tmp_path / "predictions"
    for seed, case in enumerate(Acdc().test_cases(acdc / "testing", 1)):
        Acdc().export(labels_of(SHAPE, [1, 2, 3], seed).transpose(2, 1, 0), case, folder)
    (folder / "run.json").write_text("{}")
    (folder / ".DS_Store").write_bytes(b"\x00")
    return folder


@pytest.fixture
def archive(acdc, predictions, tmp_path):
    built = build_archive(predictions, tmp_path / "acdc.zip", Acdc.facts, Acdc().submission(acdc / "testing"))
    assert built.kept
    return tmp_path / "acdc.zip"


def verified(archive, acdc, facts=Acdc.facts):
    return verify_archive(archive, facts, Acdc().submission(acdc / "testing"))


def errors(findings):
    return [finding for finding in findings if finding.severity == "error"]


def rewrite(archive, change):
    """Write the archive again with a changed list of (entry, content)."""
    with zipfile.ZipFile(archive) as old:
        members = [(info, old.read(info)) for info in old.infolist()]
    with warnings.catch_warnings(), zipfile.ZipFile(archive, "w") as new:
        warnings.simplefilter("ignore")  # names twice
        for info, content in change(members):
            new.writestr(zipfile.ZipInfo(info) if isinstance(info, str) else info, content)


def add(name, content=b"x", mode=0):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return lambda members: [*members, (info, content)]


def rename(new):
    return lambda members: [(new if info.filename == FIRST else info.filename, content) for info, content in members]


def content(change):
    return lambda members: [(info.filename, change(old) if info.filename == FIRST else old) for info, old in members]


def image(change):
    """Change the first prediction's image; ``change`` gets voxels, header and affine and returns an image."""

    def changed(old):
        before = nibabel.Nifti1Image.from_bytes(gzip.decompress(old))
        after = change(np.asanyarray(before.dataobj), before.header.copy())
        return gzip.compress(after.to_bytes(), mtime=0)

    return content(changed)


def as_image(voxels, header):
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    return nibabel.Nifti1Image(voxels, None, header)


def with_header(field, value):
    def change(voxels, header):
        header[field] = value
        return as_image(voxels, header)

    return change


def spaced(voxels, header):
    header["pixdim"][3] = 7.0
    return as_image(voxels, header)


def with_value(value, dtype):
    def change(voxels, header):
        voxels = voxels.astype(dtype)
        voxels[1, 2, 3] = value
        return as_image(voxels, header)

    return change


DAMAGES = {
    "missing case": (lambda m: m[1:], FIRST, "prediction of patient101_ED", "no such member"),
    "wrong name": (rename("patient101.nii.gz"), "patient101.nii.gz", "predictions only", "no test case"),
    "float voxels": (image(lambda v, h: as_image(v.astype(np.float32), h)), FIRST, "uint8 voxels", "float32"),
    "shifted affine": (image(with_header("srow_x", (-1, 0, 0, 30.0))), FIRST, "affine with origin", "(-30, 0, 0)"),
    "turned affine": (image(with_header("srow_x", (1, 0, 0, 0))), FIRST, "affine with directions", "(-1, 0, 0"),
    "spacing": (image(spaced), FIRST, "(1.5625, 1.25, 8) mm", "(1.5625, 1.25, 7) mm"),
    "shape": (image(lambda v, h: as_image(v[:, :, :-1], h)), FIRST, "shape (6, 7, 4)", "(6, 7, 3)"),
    "transposed": (
        image(lambda v, h: as_image(v.transpose(2, 1, 0), h)),
        FIRST,
        "shape (6, 7, 4)",
        "(4, 7, 6) (the axes are in another order)",
    ),
    "extra folder": (rename(f"out/{FIRST}"), f"out/{FIRST}", FIRST, "in the folder out"),
    "label out of range": (image(with_value(4, np.uint8)), FIRST, "labels [0, 1, 2, 3]", "4"),
    "negative label": (image(with_value(-1, np.int16)), FIRST, "labels [0, 1, 2, 3]", "-1"),
    "fractional label": (image(with_value(0.5, np.float32)), FIRST, "whole label values", "0.5"),
    "NaN": (image(with_value(np.nan, np.float32)), FIRST, "finite voxels", "1 NaN"),
    "four axes": (image(lambda v, h: as_image(v[..., None], h)), FIRST, "3 axes", "4 axes"),
    "channels": (image(lambda v, h: as_image(np.stack([v, v], -1), h)), FIRST, "3 axes", "4 axes"),
    "macOS junk": (add(f"__MACOSX/._{FIRST}"), f"__MACOSX/._{FIRST}", "predictions only", "junk"),
    "Finder's file": (add(".DS_Store"), ".DS_Store", "predictions only", "junk"),
    "extra file": (add("run.json"), "run.json", "predictions only", "no test case"),
    "empty folder": (add("more/", b""), "more/", "predictions only", "no test case"),
    "twice": (add(FIRST), FIRST, "one member of that name", "2"),
    "zip slip": (add("../evil"), "../evil", "inside the archive", "leads out"),
    "absolute": (add("/etc/evil"), "/etc/evil", "relative to", "absolute name"),
    "drive": (add("C:/evil"), "C:/evil", "relative to", "absolute name"),
    "backslash": (add("a\\..\\evil"), "a\\..\\evil", "with / between", "evil"),
    "link": (add("link", b"/etc/passwd", stat.S_IFLNK | 0o777), "link", "regular file", "symbolic link"),
    "device": (add("null", b"", stat.S_IFCHR | 0o666), "null", "regular file", "device"),
    "letters": (rename("Patient101_ED.nii.gz"), "Patient101_ED.nii.gz", FIRST, "capital letters"),
    "uncompressed": (content(gzip.decompress), FIRST, "gzip content", "no gzip content"),
    "other format": (rename("patient101_ED.nii"), "patient101_ED.nii", FIRST, "another format (.nii)"),
    "gzip cut": (content(lambda old: old[:-9]), FIRST, "whole gzip stream", "cut off or damaged"),
    "gzip flipped": (content(lambda old: old[:-6] + b"\x00\x00" + old[-4:]), FIRST, "whole gzip stream", "CRC"),
    "gzip bomb": (content(lambda old: gzip.compress(bytes(3 << 20))), FIRST, "when unpacked", "a gzip stream of more"),
    "large member": (content(lambda old: bytes(3 << 20)), FIRST, "at most", "3145728 bytes"),
    "web page": (content(lambda old: gzip.compress(b"<html>")), FIRST, "a NIfTI file", "do not open"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_of_a_member_is_named(acdc, archive, damage):
    change, file, expected, found = DAMAGES[damage]
    rewrite(archive, change)
    told = errors(verified(archive, acdc))
    assert [f for f in told if f.file == file and expected in f.expected and found in f.found], told
    assert all(finding.fix.endswith(".") for finding in told)
    # The member that was touched, and what its absence means; nothing else.
    assert {finding.file for finding in told} <= {file, FIRST}


def test_an_unspoilt_archive_written_again_is_taken(acdc, archive):
    """The damages above are the damage, not the writing."""
    rewrite(archive, image(as_image))
    assert errors(verified(archive, acdc)) == []


def patch(archive, where, old, new):
    """Change an entry's field in the table of contents (and in the member's own header)."""
    raw = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x01\x02", where + 2), (b"PK\x03\x04", where)):
        at = raw.index(signature) + offset
        assert raw[at : at + 2] == struct.pack("<H", old)
        raw[at : at + 2] = struct.pack("<H", new)
    archive.write_bytes(bytes(raw))


def test_encrypted_member(acdc, archive):
    patch(archive, 6, 0, 1)
    (told,) = errors(verified(archive, acdc))
    assert (told.file, told.found) == (FIRST, "an encrypted one")


def test_compression_not_every_unzip_reads(acdc, archive):
    patch(archive, 8, 0, 93)
    (told,) = errors(verified(archive, acdc))
    assert told.file == FIRST and "compression method 93" in told.found


def test_member_damaged_inside(acdc, archive):
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\x03\x04") + 30 + len(FIRST) + 60] ^= 0xFF
    archive.write_bytes(bytes(raw))
    (told,) = errors(verified(archive, acdc))
    assert told.file == FIRST and "cut off or damaged" in told.found and "CRC" in told.found


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda raw: raw[: len(raw) // 2], "cut off or damaged"),
        (lambda raw: b"<html>Sign in</html>", "no zip"),
        (lambda raw: b"", "no zip"),
        # A table of contents that says it is 1 GiB.
        (lambda raw: raw[:-10] + struct.pack("<I", 1 << 30) + raw[-6:], "cut off or damaged"),
    ],
)
def test_file_that_is_no_whole_zip(acdc, archive, spoil, found):
    archive.write_bytes(spoil(archive.read_bytes()))
    (told,) = errors(verified(archive, acdc))
    assert told.file == str(archive) and found in told.found


def test_a_table_of_contents_without_end_is_not_read(acdc, tmp_path):
    path = tmp_path / "many.zip"
    size = 5 << 20
    path.write_bytes(bytes(size) + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0))
    (told,) = errors(verified(path, acdc))
    assert f"a table of contents of {size} bytes" in told.found


def test_file_that_is_not_there(acdc, tmp_path):
    (told,) = errors(verified(tmp_path / "no.zip", acdc))
    assert told.found == "no such file"


def test_background_only_other_integers_and_a_part_of_the_test_set_are_warnings(acdc, archive):
    rewrite(archive, image(lambda voxels, header: as_image(np.zeros_like(voxels, dtype=np.int16), header)))
    findings = verified(archive, acdc)
    assert errors(findings) == []
    told = {(finding.file, finding.found) for finding in findings}
    assert told == {(FIRST, "background only"), (FIRST, "int16"), ("test folder", "4")}


def test_every_finding_at_once(acdc, archive):
    def change(members):
        return [(f"sub/{info.filename}", data[:-9]) for info, data in members[1:]] + [("run.json", b"{}")]

    rewrite(archive, change)
    told = errors(verified(archive, acdc))
    assert len(told) == 1 + 3 * 2 + 1
    assert {finding.file for finding in told} == {*NAMES, *(f"sub/{name}" for name in NAMES[1:]), "run.json"}


def test_limits_and_rules_that_a_form_declares(acdc, archive):
    small = replace(Acdc.facts, form=replace(Acdc.facts.form, most_bytes=100, labels=(0, 1, 2)))
    told = errors(verified(archive, acdc, small))
    assert told[0].expected == "at most 100 bytes"
    assert {finding.found for finding in told[1:]} == {"3"}
    rewrite(archive, image(with_header("srow_x", (-1, 0, 0, 30.0))))
    arrays = replace(Acdc.facts, form=replace(Acdc.facts.form, same_affine=False))
    assert errors(verified(archive, acdc, arrays)) == []
    assert any("origin" in finding.expected for finding in verified(archive, acdc, arrays))


def test_nothing_is_written_where_the_archive_says(acdc, archive, tmp_path, monkeypatch):
    inside = tmp_path / "cwd"
    inside.mkdir()
    monkeypatch.chdir(inside)
    rewrite(archive, lambda members: [*members, *(add(n)([])[0] for n in ("../evil", f"{tmp_path}/evil", "evil"))])
    verified(archive, acdc)
    assert not list(tmp_path.rglob("evil"))


def test_same_files_same_bytes_and_nothing_but_predictions(acdc, predictions, archive, tmp_path):
    for path in predictions.iterdir():
        os.utime(path, (1, 1))
    parts = Acdc().submission(acdc / "testing")
    built = build_archive(predictions, tmp_path / "again.zip", Acdc.facts, parts)
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    assert built.left_out == (".DS_Store", "run.json")
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == NAMES
        for name in NAMES:
            assert opened.read(name) == (predictions / name).read_bytes()


def test_an_archive_that_would_be_refused_is_not_kept(acdc, predictions, archive):
    before = archive.read_bytes()
    (predictions / FIRST).unlink()
    built = build_archive(predictions, archive, Acdc.facts, Acdc().submission(acdc / "testing"))
    assert not built.kept and [finding.file for finding in errors(built.findings)] == [FIRST]
    assert archive.read_bytes() == before
    assert not list(archive.parent.glob(".nnbox-tmp-*"))


def test_folder_without_predictions(acdc, tmp_path):
    parts = Acdc().submission(acdc / "testing")
    for folder in (tmp_path / "none", acdc):
        with pytest.raises(InvalidData, match="predictions"):
            build_archive(folder, tmp_path / "a.zip", Acdc.facts, parts)


def test_decathlon_tasks_become_folders_at_the_root(tmp_path):
    downloads, predicted = tmp_path / "MSD", tmp_path / "predicted"
    write_decathlon(downloads / "Task09_Spleen")
    four = ("prostate_00",), ("prostate_03",), ("T2", "ADC"), ("PZ", "TZ")
    write_decathlon(downloads / "Task05_Prostate", *four)
    parts = Decathlon().submission(downloads)
    assert [(part.folder, len(part.cases)) for part in parts] == [("Task05_Prostate", 1), ("Task09_Spleen", 2)]
    for part in parts:
        for case in part.cases:
            Decathlon().export(np.ones(SHAPE[::-1], np.uint8), case, predicted / part.folder)
    built = build_archive(predicted, tmp_path / "all.zip", Decathlon.facts, parts)
    assert built.kept, built.findings
    with zipfile.ZipFile(tmp_path / "all.zip") as opened:
        assert opened.namelist() == [
            "Task05_Prostate/prostate_03.nii.gz",
            "Task09_Spleen/spleen_1.nii.gz",
            "Task09_Spleen/spleen_7.nii.gz",
        ]
    assert any(f.found == "2: Task05_Prostate, Task09_Spleen" for f in built.findings if f.severity == "warning")
    # Label 2 is the prostate's, not the spleen's.
    case = parts[1].cases[0]
    Decathlon().export(np.full(SHAPE[::-1], 2, np.uint8), case, predicted / "Task09_Spleen")
    refused = build_archive(predicted, tmp_path / "bad.zip", Decathlon.facts, parts)
    assert [finding.file for finding in errors(refused.findings)] == ["Task09_Spleen/spleen_1.nii.gz"]
    # One task's predictions need no folder of the task's name.
    one = Decathlon().submission(downloads / "Task05_Prostate" / "imagesTs")
    assert build_archive(predicted / "Task05_Prostate", tmp_path / "one.zip", Decathlon.facts, one).kept


def test_two_files_a_case_belong_together():
    assert Acdc.facts.form.files("Case00.mhd") == ("Case00.mhd", "Case00.raw")
    assert Acdc.facts.form.files(FIRST) == (FIRST,)


def run(monkeypatch, capsys, *arguments):
    """The command as ``nnbox`` runs it: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["nnbox", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as ending:
        code = int(ending.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_commands(acdc, predictions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    test = ("--challenge", "acdc", "--test-folder", acdc / "testing")
    code, out, err = run(monkeypatch, capsys, "build-submission", "archive", predictions, *test, "-o", "up.zip")
    assert code == 0 and out.splitlines()[-1] == "up.zip" and "left out: .DS_Store, run.json" in err
    code, out, _ = run(monkeypatch, capsys, "verify-submission", "archive", "up.zip", *test, "--json")
    assert code == 0 and json.loads(out)["accepted"] is True
    rewrite(tmp_path / "up.zip", lambda members: members[1:])
    code, out, _ = run(monkeypatch, capsys, "verify-submission", "archive", "up.zip", *test)
    assert code == 5 and f"error: {FIRST}: expected the prediction of patient101_ED; found no such member." in out
    (predictions / FIRST).unlink()
    code, out, err = run(monkeypatch, capsys, "build-submission", "archive", predictions, *test)
    assert code == 5 and "was not written" in err and not list((tmp_path / "nnbox").rglob("*.zip"))


def test_test_folder_is_that_of_the_converted_data_set(acdc, predictions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ("build-submission", "archive", "--challenge", "acdc", predictions)
    code, _, err = run(monkeypatch, capsys, *command)
    assert code == 2 and "--test-folder" in err
    Acdc().convert(Acdc().recognise(acdc), tmp_path / "nnbox" / "datasets" / "acdc")
    code, out, err = run(monkeypatch, capsys, *command)
    assert code == 0 and out.splitlines()[-1] == "nnbox/submissions/acdc.zip", err


def thresholded(adapter, parts, folder):
    """Predictions for a test, no more: what is brighter than most."""
    for part in parts:
        for case in part.cases:
            voxels = np.asanyarray(nibabel.load(case.reference_file).dataobj)
            labels = (voxels > np.percentile(voxels, 90)).astype(np.uint8)
            adapter.export(labels.transpose(2, 1, 0), case, folder / part.folder)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "test", "count"),
    [(Acdc(), "ACDC/database/testing", 20), (Decathlon(), "MSD/Task04_Hippocampus/imagesTs", 53)],
)
def test_real_test_folders(real_data, tmp_path, adapter, test, count):
    parts = adapter.submission(real_data / test)
    thresholded(adapter, parts, tmp_path / "predicted")
    built = build_archive(tmp_path / "predicted", tmp_path / "up.zip", adapter.facts, parts)
    assert built.kept and built.files == count, built.findings
    assert {finding.file for finding in built.findings} == {"test folder"}
    name = zipfile.ZipFile(tmp_path / "up.zip").namelist()[0]
    raw = bytearray((tmp_path / "up.zip").read_bytes())
    raw[raw.index(name.encode()) + len(name) + 100] ^= 0xFF
    (tmp_path / "up.zip").write_bytes(raw)
    (told,) = errors(verify_archive(tmp_path / "up.zip", adapter.facts, parts))
    assert told.file == name and "damaged" in told.found
