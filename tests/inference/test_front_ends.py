"""What an image does with the layouts of organisers: sockets, a folder a case, files by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from front_end_samples import (
    GRID,
    make_model,
    predict,
    write_contract,
    write_image,
    write_inputs,
    write_mha,
)

from nnunet_box.contract import read_contract
from nnunet_box.dataset.metaimage import grid_fields, open_metaimage, read_voxels
from nnunet_box.dataset.volumes import read_volume
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.inference import entry
from nnunet_box.inference.case_folders import case_folders
from nnunet_box.inference.jobs import Job, run_job
from nnunet_box.inference.sockets import socket_case


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def pair_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "bundle", ("T2", "FLAIR"))


def sockets(tmp_path: Path, model: Path, *slugs: str, **facts: object) -> Path:
    told = {"layout": "sockets", "channels": slugs, "output_socket": "labels", "record": False, **facts}
    return write_contract(tmp_path, model, **told)


def test_sockets_give_one_label_map_and_nothing_on_stderr(model: Path, tmp_path: Path) -> None:
    source = write_mha(tmp_path / "in/images/t2-mri/1.2.840.mha")
    write_inputs(tmp_path / "in", "t2-mri", "other-image")
    (tmp_path / "in/images/other-image").mkdir()
    ended = predict("--profile", sockets(tmp_path, model, "t2-mri", silent_stderr=True), "--no-mirroring")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")] == [
        "images",
        "images/labels",
        "images/labels/1.2.840.mha",
    ]
    written = open_metaimage(tmp_path / "out/images/labels/1.2.840.mha")
    assert grid_fields(written) == grid_fields(open_metaimage(source))
    assert (written.dtype, written.compressed) == (np.uint8, True)
    run = json.loads(ended.stdout.splitlines()[-1])
    counts = np.bincount(read_voxels(written).ravel(), minlength=3)
    assert list(run["cases"][0]["voxels"].values()) == counts.tolist()


def test_a_written_mha_is_what_itk_reads(model: Path, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    write_mha(tmp_path / "in/images/mr/a.mha")
    run_job(Job(mirroring=False), read_contract(sockets(tmp_path, model, "mr")))
    image = sitk.ReadImage(str(tmp_path / "out/images/labels/a.mha"))
    ours = read_volume(tmp_path / "out/images/labels/a.mha")
    assert (sitk.GetArrayFromImage(image) == ours.array).all()
    assert image.GetSpacing() == GRID.spacing[::-1]
    assert image.GetOrigin() == GRID.origin
    np.testing.assert_allclose(image.GetDirection(), GRID.direction, atol=1e-15)


def test_channels_come_from_the_sockets_named_for_them(pair_model: Path, tmp_path: Path) -> None:
    for number, slug in enumerate(("b-flair", "a-t2")):
        write_mha(tmp_path / f"in/images/{slug}/{slug}.mha", seed=number)
    write_inputs(tmp_path / "in", "b-flair", "a-t2", key="interface")
    case = socket_case(tmp_path / "in", ("a-t2", "b-flair"))
    assert [channel.path.name for channel in case.channels] == ["a-t2.mha", "b-flair.mha"]
    assert case.output_name == "a-t2.mha"
    with pytest.raises(InvalidData, match="--input-socket"):
        socket_case(tmp_path / "in", ("a-t2", "c-t1"))


def test_a_socket_lies_where_inputs_json_says(tmp_path: Path) -> None:
    write_mha(tmp_path / "images/elsewhere/a.mha")
    write_inputs(tmp_path, "t2", t2="images/elsewhere")
    assert socket_case(tmp_path, ("t2",)).reference_file == tmp_path / "images/elsewhere/a.mha"


def test_a_single_image_is_taken_whatever_its_socket_is_called(tmp_path: Path, capsys) -> None:
    write_mha(tmp_path / "images/t2-brain/a.mha")
    write_inputs(tmp_path, "t2-brain")
    assert socket_case(tmp_path, ("mri",)).id == "a"
    assert "no socket mri" in capsys.readouterr().err


def test_without_inputs_json_the_folders_are_the_sockets(tmp_path: Path, capsys) -> None:
    write_mha(tmp_path / "images/t2/a.mha")
    assert socket_case(tmp_path, ("t2",)).id == "a"
    assert "inputs.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["../secret", "/etc", "images/../../x", "images/a\0b"])
def test_a_place_outside_is_refused(tmp_path: Path, place: str) -> None:
    write_mha(tmp_path / "secret/a.mha")
    write_inputs(tmp_path / "in", "t2", t2=place)
    with pytest.raises(InvalidData, match=r"inputs\.json: expected a place of t2 below"):
        socket_case(tmp_path / "in", ("t2",))


@pytest.mark.parametrize(
    "text", ["", "{", '{"socket": 1}', '[{"socket": {"name": "x"}}]', "[3]", "null", '[{"slug": "a"}]']
)
def test_a_malformed_inputs_json_is_one_message(tmp_path: Path, text: str) -> None:
    write_mha(tmp_path / "images/t2/a.mha")
    (tmp_path / "inputs.json").write_text(text)
    with pytest.raises(InvalidData, match=r"inputs\.json: expected"):
        socket_case(tmp_path, ("t2",))


def test_a_socket_twice_is_refused(tmp_path: Path) -> None:
    write_inputs(tmp_path, "t2", "t2")
    with pytest.raises(InvalidData, match="t2 twice"):
        socket_case(tmp_path, ("t2",))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.mha", "b.mha"], r"expected one \.mha image; found a\.mha, b\.mha\. Keep one"),
        ([], "an empty folder"),
        (["a.tif"], r"found a\.tif\. Images of other formats"),
        (["a.nii.gz"], r"found a\.nii\.gz\. Images of other formats"),
    ],
)
def test_a_socket_holds_exactly_one_mha(tmp_path: Path, files: list[str], message: str) -> None:
    (tmp_path / "images/t2").mkdir(parents=True)
    for name in files:
        write_mha(tmp_path / "images/t2" / name)
    write_inputs(tmp_path, "t2")
    with pytest.raises(InvalidData, match=message):
        socket_case(tmp_path, ("t2",))


def test_a_link_out_of_the_input_is_not_followed(tmp_path: Path) -> None:
    write_mha(tmp_path / "secret.mha")
    (tmp_path / "in/images/t2").mkdir(parents=True)
    (tmp_path / "in/images/t2/a.mha").symlink_to(tmp_path / "secret.mha")
    with pytest.raises(InvalidData, match=r"a link to .*secret\.mha"):
        socket_case(tmp_path / "in", ("t2",))
    (tmp_path / "in/images/t2/a.mha").unlink()
    (tmp_path / "in/images/t2").rmdir()
    (tmp_path / "outside").mkdir()
    write_mha(tmp_path / "outside/b.mha")
    (tmp_path / "in/images/t2").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidData, match="below"):
        socket_case(tmp_path / "in", ("t2",))


def test_what_an_earlier_case_left_in_the_socket_goes(model: Path, tmp_path: Path, capsys) -> None:
    write_mha(tmp_path / "in/images/mr/a.mha")
    for name in ("old.mha", "old.tif", "notes.txt"):
        (tmp_path / "out/images/labels").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out/images/labels" / name).touch()
    run_job(Job(mirroring=False), read_contract(sockets(tmp_path, model, "mr")))
    assert sorted(path.name for path in (tmp_path / "out/images/labels").iterdir()) == ["a.mha", "notes.txt"]
    assert "old.tif: removed" in capsys.readouterr().err


def test_a_mounted_model_comes_before_the_images_own(model: Path, tmp_path: Path) -> None:
    write_mha(tmp_path / "in/images/mr/a.mha")
    mounted = make_model(tmp_path / "model")
    facts = read_contract(sockets(tmp_path, tmp_path / "nothing", "mr"))
    told = facts.model_copy(update={"model": str(mounted)})
    run_job(Job(mirroring=False), told)
    (mounted / "bundle.json").unlink()
    with pytest.raises(InvalidData, match=r"model\.tar\.gz that nnbox"):
        run_job(Job(), told)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="built without weights"):
        run_job(Job(), told.model_copy(update={"model": str(tmp_path / "empty")}))
    run_job(Job(mirroring=False), told.model_copy(update={"bundle": str(model), "model": str(tmp_path / "empty")}))


def test_a_model_with_other_channels_is_refused(pair_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"a model of 1 channels \(mr\); found 2"):
        run_job(Job(), read_contract(sockets(tmp_path, pair_model, "mr")))


def test_case_folders(pair_model: Path, tmp_path: Path) -> None:
    for case in ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000"):
        for ending in ("t2w", "t2f", "t1n", "seg"):
            write_image(tmp_path / "in" / case / f"{case}-{ending}.nii.gz")
    (tmp_path / "in/.cache").mkdir()
    told = write_contract(tmp_path, pair_model, layout="case-folders", channels=("t2w", "t2f"), record=False)
    assert entry.main(["--profile", str(told), "--no-mirroring"]) == 0
    names = ["BraTS-GLI-00001-000.nii.gz", "BraTS-GLI-00002-000.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    cases = case_folders(tmp_path / "in", ("t2w", "t2f"))
    assert [file.path.name[-10:] for file in cases[0].channels] == ["t2w.nii.gz", "t2f.nii.gz"]


def test_a_case_folder_without_a_channel_does_not_cost_the_others(pair_model: Path, tmp_path: Path, capsys) -> None:
    for case, endings in (("a", ("t2w", "t2f")), ("b", ("t2w",)), ("c", ())):
        (tmp_path / "in" / case).mkdir(parents=True)
        for ending in endings:
            write_image(tmp_path / "in" / case / f"{case}_{ending}.nii.gz")
    told = write_contract(tmp_path, pair_model, layout="case-folders", channels=("t2w", "t2f"))
    assert entry.main(["--profile", str(told), "--no-mirroring"]) == InvalidData.exit_code
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "run.json"]
    assert "2 of 3 cases could not be predicted (b, c)" in capsys.readouterr().err


def test_two_files_for_one_ending_are_refused(tmp_path: Path) -> None:
    for name in ("a-t2w.nii.gz", "b-t2w.nii.gz"):
        write_image(tmp_path / "a" / name)
    with pytest.raises(InvalidData, match="one file ending in t2w"):
        case_folders(tmp_path, ("t2w",))
    with pytest.raises(InvalidData, match="a folder for each case"):
        (tmp_path / "empty" / ".x").mkdir(parents=True)
        case_folders(tmp_path / "empty", ("t2w",))


def test_files_by_name_on_the_command_line(pair_model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "p1/flair.nii.gz", 1)
    write_image(tmp_path / "p1/t2 (new).nii.gz", 2)
    told = write_contract(tmp_path, pair_model, layout="files", entry="command", threads=1)
    named = ["--input", f"flair={tmp_path}/p1/flair.nii.gz", "--input", f"T2={tmp_path}/p1/t2 (new).nii.gz"]
    ordered = ["--input", f"{tmp_path}/p1/t2 (new).nii.gz", "--input", f"{tmp_path}/p1/flair.nii.gz"]
    for number, words in enumerate((named, ordered)):
        ended = predict("--profile", told, *words, "--output", tmp_path / f"o{number}" / "s.nii.gz", "--no-mirroring")
        assert ended.returncode == 0, ended.stderr
        assert [path.name for path in (tmp_path / f"o{number}").iterdir()] == ["s.nii.gz"]
    first, second = (read_volume(tmp_path / f"o{number}" / "s.nii.gz").array for number in range(2))
    assert (first == second).all()


def test_wrong_command_lines_say_what_is_missing(pair_model: Path, tmp_path: Path) -> None:
    told = read_contract(write_contract(tmp_path, pair_model, layout="files", entry="command"))
    for words, output, message in (
        ((), None, "--input FILE for each channel"),
        (("a.nii.gz",), "s.nii.gz", "--input once for each of T2, FLAIR; given 1"),
        (("a.nii.gz", "b.nii.gz", "c.nii.gz"), "s.nii.gz", "c.nii.gz: one file for each"),
        (("T2=a.nii.gz", "t2=b.nii.gz"), "s.nii.gz", "one file for each"),
        (("a.nii.gz", "b.nii.gz"), "folder", "--output is a file"),
    ):
        with pytest.raises(UsageError, match=message):
            run_job(Job(inputs=words, output=Path(output) if output else None), told)
    with pytest.raises(UsageError, match="--bundle, --input and --output"):
        run_job(Job(), None)


def test_threads_are_those_of_the_profile_unless_asked_otherwise(tmp_path: Path, monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(entry, "limit_processors", asked.append)
    told = write_contract(tmp_path, tmp_path / "none", threads=2)
    for words in ([], ["--threads", "5"]):
        assert entry.main(["--profile", str(told), *words]) == InvalidData.exit_code
    assert asked == [2, 5]


def test_processors_are_really_taken_away() -> None:
    program = (
        "from nnunet_box.inference.entry import *; import os; limit_processors(1); print(len(os.sched_getaffinity(0)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("key", "value"), [("input", "in"), ("output", "/a/../b"), ("channels", ["a/b"]), ("layout", "x"), ("extra", 1)]
)
def test_a_damaged_profile_is_refused(tmp_path: Path, key: str, value: object) -> None:
    file = write_contract(tmp_path, tmp_path / "none")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(InvalidData, match=r"profile\.json"):
        read_contract(file)


def test_nobody_needs_a_command_line_library(tmp_path: Path) -> None:
    """The front end starts before a numeric library is imported, and never imports what an image lacks."""
    program = (
        "import sys, nnunet_box.inference.entry; "
        "print(sorted({'numpy', 'torch', 'scipy', 'SimpleITK', 'typer', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
