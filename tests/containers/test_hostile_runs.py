"""What goes wrong at organisers' and on the way to them: each ends in one message and the right exit code, and whatever
could be predicted is there, whole.
"""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_samples import (
    GRID,
    LABELS,
    SOCKET,
    ProfileImage,
    label_map,
    open_folder,
    plain_folder,
    put_image,
    readable,
    socket_folder,
    voxels,
)

from nnbox_containers.engine import Mount, RunLimits, RunResult
from nnunet_box.dataset.volumes import save_nifti
from nnunet_box.temporary import TEMPORARY_MARK

pytestmark = pytest.mark.docker
FAILED, USAGE, INVALID, KILLED, TERMINATED, INTERRUPTED = 1, 2, 3, 137, 143, 130
FAST = ("--no-mirroring",)


@pytest.fixture(scope="module")
def image(profile_image: Callable[[str], ProfileImage]) -> ProfileImage:
    return profile_image("folder")


@pytest.fixture(scope="module")
def platform(profile_image: Callable[[str], ProfileImage]) -> ProfileImage:
    return profile_image("grand-challenge")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return open_folder(tmp_path / "out")


def one_message(result: RunResult, code: int, *words: str) -> str:
    """The last line on stderr, which is the one that says why."""
    assert result.exit_code == code, result.stderr or result.stdout
    assert "Traceback" not in result.stderr + result.stdout
    said = [line for line in result.stderr.splitlines() if line.startswith("nnbox: ")]
    assert len(said) == 1, result.stderr
    for word in words:
        assert word in said[0]
    return said[0]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def whole(file: Path) -> None:
    with gzip.open(file) as stream:
        assert stream.read()


def test_output_mounted_read_only(image, tmp_path, out):
    mounts = [Mount(plain_folder(tmp_path / "in", "a"), "/input", True), Mount(out, "/output", read_only=True)]
    result = image.engine.run(image.tag, FAST, mounts, image.profile.strictest)
    one_message(result, FAILED, "/output: uid 12345 cannot write here", "without :ro")


def test_output_of_another_user(image, tmp_path):
    (tmp_path / "out").mkdir(mode=0o755)
    result = image.run(plain_folder(tmp_path / "in", "a"), tmp_path / "out")
    one_message(result, FAILED, "/output: uid 12345 cannot write here (Permission denied)", "--user $(id -u):$(id -g)")
    assert names(tmp_path / "out") == []


def test_no_output_mount(image, tmp_path):
    result = image.run(plain_folder(tmp_path / "in", "a"), None)
    one_message(result, FAILED, "/output: uid 12345 cannot write here")


def test_no_input_mount(image, out):
    one_message(image.run(None, out), INVALID, "/input", "no such folder", "-v TEST_FOLDER:/input:ro")
    assert names(out) == []


def test_empty_input(image, tmp_path, out):
    one_message(image.run(open_folder(tmp_path / "in"), out), INVALID, "/input", "an empty folder")


def test_input_closed_to_the_user(image, tmp_path, out):
    (plain_folder(tmp_path / "in", "a")).chmod(0o700)
    one_message(image.run(tmp_path / "in", out), INVALID, "/input", "uid 12345 may not read")


def test_a_case_closed_to_the_user_does_not_cost_the_others(image, tmp_path, out):
    plain_folder(tmp_path / "in", "a", "b")
    (tmp_path / "in" / "a_0000.nii.gz").chmod(0o600)
    one_message(image.run(tmp_path / "in", out, arguments=FAST), INVALID, "a_0000.nii.gz", "uid 12345 may not read")
    assert names(out) == ["b.nii.gz", "run.json"]


def test_a_corrupt_case_among_good_ones(image, tmp_path, out):
    plain_folder(tmp_path / "in", "a", "b", "c")
    damaged = tmp_path / "in" / "b_0000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    one_message(image.run(tmp_path / "in", out, arguments=FAST), INVALID, "1 of 3 cases", "(b)", "b_0000.nii.gz")
    assert names(out) == ["a.nii.gz", "c.nii.gz", "run.json"]
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "failed"
    assert [case["case"] for case in run["cases"] if "error" in case] == ["b"]


@pytest.mark.parametrize("kind", ["nan", "channels", "link"])
def test_a_case_that_cannot_be_an_image_of_this_model(image, tmp_path, out, kind):
    plain_folder(tmp_path / "in", "good")
    bad = tmp_path / "in" / "bad_0000.nii.gz"
    array = voxels(0)
    if kind == "nan":
        array[0, 0, 0] = np.nan
        save_nifti(bad, array, GRID)
    elif kind == "channels":
        import nibabel

        nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4, 2), np.float32), np.eye(4)), bad)
    else:
        bad.symlink_to(put_image(tmp_path / "elsewhere.nii.gz", 1))
    words = {"nan": "1 NaN or infinite", "channels": "2 along the fourth axis", "link": "which is not there"}
    result = image.run(readable(tmp_path / "in"), out, arguments=FAST)
    one_message(result, INVALID, "bad_0000.nii.gz", words[kind])
    assert names(out) == ["good.nii.gz", "run.json"]


def test_zero_cases(image, tmp_path, out):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no images here")
    one_message(image.run(readable(tmp_path / "in"), out), INVALID, "/input: expected", "found notes.txt")


def test_two_cases_of_one_name(image, tmp_path, out):
    for name in ("a.nii.gz", "a.nii"):
        put_image(tmp_path / "in" / name, 0)
    one_message(image.run(readable(tmp_path / "in"), out), INVALID, "2 named a")
    assert names(out) == []


def test_stale_files_in_the_output(image, tmp_path, out):
    half, older, foreign = out / f"{TEMPORARY_MARK}12345678-a.nii.gz", out / "a.nii.gz", out / "letter.txt"
    for file in (half, older, foreign):
        file.write_bytes(b"older")
        file.chmod(0o666)
    assert image.run(plain_folder(tmp_path / "in", "a"), out, arguments=FAST).exit_code == 0
    assert names(out) == ["a.nii.gz", "letter.txt", "run.json"]
    assert foreign.read_bytes() == b"older"
    whole(older)


def test_nowhere_to_write_but_the_output(image, tmp_path, out):
    limits = replace(image.profile.strictest, tmpfs=())
    result = image.run(plain_folder(tmp_path / "in", "a"), out, limits, FAST)
    assert result.exit_code == 0, result.stderr
    assert names(out) == ["a.nii.gz", "run.json"]


def test_a_full_disk(image, tmp_path):
    # The engine bounds this folder of memory; an output that is a volume fills up in the same way.
    plain_folder(tmp_path / "in", "a")
    limits = replace(image.profile.strictest, shm_bytes=4096)
    result = image.run(tmp_path / "in", None, limits, (*FAST, "--output", "/dev/shm/out"))
    one_message(result, FAILED, "/dev/shm/out/", "could not be written (No space left on device)")


def test_too_little_memory_then_enough(image, tmp_path, out):
    plain_folder(tmp_path / "in", "a")
    result = image.run(tmp_path / "in", out, replace(image.profile.strictest, memory_bytes=48 << 20), FAST)
    assert result.exit_code == KILLED
    assert not (out / "a.nii.gz").exists()
    assert image.run(tmp_path / "in", out, arguments=FAST).exit_code == 0
    assert names(out) == ["a.nii.gz", "run.json"]


def test_a_wrong_option(image, tmp_path, out):
    result = image.run(plain_folder(tmp_path / "in", "a"), out, arguments=("--runtime", "magic"))
    one_message(result, USAGE, "--runtime magic")
    result = image.run(plain_folder(tmp_path / "in2", "a"), out, arguments=("--device", "cuda"))
    one_message(result, USAGE, "--device cuda")


@contextmanager
def running(image: ProfileImage, source: Path, output: Path) -> Iterator[Any]:
    """A container at work: it has finished a case and has more to do."""
    import docker

    client = docker.from_env()
    volumes = {str(source): {"bind": "/input", "mode": "ro"}, str(output): {"bind": "/output", "mode": "rw"}}
    container = client.containers.run(
        image.tag, FAST, detach=True, network_mode="none", read_only=True, user="12345:12345", volumes=volumes
    )
    try:
        end = time.monotonic() + 120
        while not list(output.glob("case*.nii.gz")):
            assert time.monotonic() < end, container.logs().decode()
            container.reload()
            assert container.status in ("created", "running"), container.logs().decode()
            time.sleep(0.05)
        yield container
    finally:
        with suppress(docker.errors.APIError):
            container.remove(force=True)
        client.close()


@pytest.mark.parametrize(("signal", "code"), [("SIGTERM", TERMINATED), ("SIGINT", INTERRUPTED), ("SIGKILL", KILLED)])
def test_ended_in_mid_run_then_run_again(image, tmp_path, out, signal, code):
    source = plain_folder(tmp_path / "in", *(f"case{number:03d}" for number in range(300)))
    with running(image, source, out) as container:
        told = time.monotonic()
        container.kill(signal)
        assert container.wait(timeout=30)["StatusCode"] == code
        assert time.monotonic() - told < 5
        if signal != "SIGKILL":
            assert f"stopped by {signal}; finished cases are whole" in container.logs(stdout=False).decode()
    done = [name for name in names(out) if name.startswith("case")]
    assert 1 <= len(done) < 300
    for name in done:
        whole(out / name)
    state = json.loads((out / "run.json").read_text())["state"]
    assert state == ("running" if signal == "SIGKILL" else "interrupted")
    if signal != "SIGKILL":
        assert not [name for name in names(out) if TEMPORARY_MARK in name]
    keep = {f"{name.removesuffix('.nii.gz')}_0000.nii.gz" for name in done} | {"case299_0000.nii.gz"}
    for file in source.iterdir():
        if file.name not in keep:
            file.unlink()
    before = {name: (out / name).stat().st_mtime_ns for name in done}
    assert image.run(source, out, arguments=(*FAST, "--resume")).exit_code == 0
    assert names(out) == sorted({*done, "case299.nii.gz", "run.json"})
    assert {name: (out / name).stat().st_mtime_ns for name in done} == before


def on_platform(platform: ProfileImage, source: Path, out: Path, arguments=FAST) -> RunResult:
    return platform.run(readable(source), out, arguments=arguments)


def test_the_platforms_case_as_it_should_be(platform, tmp_path, out):
    result = on_platform(platform, socket_folder(tmp_path / "in"), out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert names(out) == [f"images/{LABELS}/case.mha"]
    assert label_map(out / f"images/{LABELS}/case.mha").dtype == np.uint8


def two_images(source: Path) -> None:
    put_image(source / "images" / SOCKET / "second.mha", 1)


def other_format(source: Path) -> None:
    (source / "images" / SOCKET / "case.mha").rename(source / "images" / SOCKET / "case.tif")


def no_sockets(source: Path) -> None:
    (source / "inputs.json").unlink()
    shutil.rmtree(source / "images")
    (source / "other").mkdir()


def rewritten(text: str) -> Callable[[Path], None]:
    return lambda source: (source / "inputs.json").write_text(text) and None


def link_outside(source: Path) -> None:
    file = source / "images" / SOCKET / "case.mha"
    file.unlink()
    file.symlink_to("/etc/passwd")


ODD = {
    "two images in a socket": (two_images, "case.mha, second.mha"),
    "an image of another format": (other_format, "case.tif"),
    "neither inputs.json nor sockets": (no_sockets, f"image sockets {SOCKET}"),
    "inputs.json is no JSON": (rewritten("{"), "inputs.json: expected valid JSON"),
    "inputs.json is another JSON": (rewritten('{"a": 1}'), "inputs.json: expected a list"),
    "inputs.json leads out": (
        rewritten(f'[{{"socket": {{"slug": "{SOCKET}", "relative_path": "images/../../etc"}}}}]'),
        "a place of",
    ),
    "a link leads out": (link_outside, "a link to /etc/passwd"),
}


@pytest.mark.parametrize("kind", ODD)
def test_sockets_as_they_should_not_be(platform, tmp_path, out, kind):
    spoil, word = ODD[kind]
    spoil(socket_folder(tmp_path / "in"))
    one_message(on_platform(platform, tmp_path / "in", out), INVALID, "/input", word)
    assert names(out) == []


def test_what_lies_in_the_output_socket_already(platform, tmp_path, out):
    socket = open_folder(out / "images" / LABELS)
    (socket.parent).chmod(0o777)
    for name in ("case.mha", "older.mha", "older.tif"):
        (socket / name).write_bytes(b"older")
    assert on_platform(platform, socket_folder(tmp_path / "in"), out).exit_code == 0
    assert names(out) == [f"images/{LABELS}/case.mha"]
    assert label_map(socket / "case.mha").max() <= 2


def test_a_mounted_model_that_is_none(platform, tmp_path, out):
    source = socket_folder(tmp_path / "in")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "checkpoint_final.pth").touch()
    mounts = [Mount(source, "/input", True), Mount(out, "/output"), Mount(tmp_path / "model", "/opt/ml/model", True)]
    result = platform.engine.run(platform.tag, FAST, mounts, platform.profile.strictest)
    one_message(result, INVALID, "/opt/ml/model: expected a bundle", "checkpoint_final.pth")
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(platform.model, tmp_path / "model")
    readable(tmp_path / "model")
    result = platform.engine.run(platform.tag, FAST, mounts, platform.profile.strictest)
    assert result.exit_code == 0, result.stderr
    assert "/opt/ml/model: the model there is used" in result.stdout


def test_a_vip_command_line_that_names_no_such_file(profile_image, tmp_path):
    vip = profile_image("vip")
    work = open_folder(tmp_path / "wd")
    (work / "command-line.sh").write_text("nnbox-predict --input missing.nii.gz --output labels.nii.gz\n")
    readable(work).chmod(0o777)
    line = ["-c", "cd /work && exec /bin/sh command-line.sh"]
    limits = RunLimits(user="54321:54321")
    result = vip.engine.run(vip.tag, line, [Mount(work, "/work")], limits, ["/bin/sh"])
    one_message(result, INVALID, "missing.nii.gz", "no such file")
    assert names(work) == ["command-line.sh"]
