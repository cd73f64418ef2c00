"""A submission image from its recipe: what it holds, whether the base fits, how it runs under an organiser's limits."""

from __future__ import annotations

import io
import json
import platform
import re
import sys
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from container_samples import PROBE_ENTRY, make_bundle, pip_wheel, probe_wheel, write_wheel
from image_samples import own_stage, remove_stages

from nnbox_containers.build import ImageRecipe, build_image, check_base, files_sha256, image_recipe
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.engine import BuildFailed, ImageFacts, ImageMissing, Mount, RunLimits, RunResult, StartFailed
from nnbox_containers.fake_engine import FakeEngine
from nnbox_containers.profiles import FOLDER
from nnbox_containers.wheelhouse import Pin
from nnunet_box.bundle import load_bundle
from nnunet_box.errors import UsageError
from nnunet_box.evaluation.postprocessing import Postprocessing

STAGE = f"test-{uuid.uuid4().hex[:12]}"
THIS_PYTHON = {
    "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    "machine": platform.machine(),
    "libc": platform.libc_ver()[0],
}


def probe_recipe(folder: Path, tag: str, base: str, entry: str = PROBE_ENTRY) -> ImageRecipe:
    """A recipe whose program is the stand-in, with one wheel it needs."""
    make_bundle(folder / "bundle")
    needed = write_wheel(folder / "wheels", "alpha", "1.0", {"alpha.py": "answer = 42\n"})
    program = probe_wheel(folder / "wheels", entry)
    recipe = image_recipe(
        folder / "bundle",
        load_bundle(folder / "bundle"),
        FOLDER,
        [Pin("alpha", "1.0")],
        [needed, pip_wheel(folder / "wheels"), program],
        tag=tag,
        base_image=base,
        base_identifier="sha256:base",
    )
    return own_stage(recipe, STAGE)


def test_the_context_holds_wheels_bundle_profile_bill_and_nothing_else(tmp_path):
    recipe = probe_recipe(tmp_path, "a:1", "python:3.11-slim")
    assert recipe.context.names() == [
        "Dockerfile",
        "bundle/bundle.json",
        "bundle/weights/2d/fold_0.safetensors",
        "bundle/weights/2d/fold_1.safetensors",
        "nnbox/profile.json",
        "nnbox/requirements.txt",
        "nnbox/sbom.cdx.json",
        f"pip/pip-{version('pip')}-py3-none-any.whl",
        "program/nnunet_box-0.0.1-py3-none-any.whl",
        "requirements.txt",
        "start/nnbox-predict",
        "wheels/alpha-1.0-py3-none-any.whl",
    ]


def test_the_bundle_in_the_context_says_what_it_was_told(tmp_path, bundle_folder):
    (bundle_folder / "notes.txt").write_text("patient names")
    told = load_bundle(bundle_folder).model_copy(update={"challenge": "liver", "postprocessing": Postprocessing()})
    recipe = image_recipe(
        bundle_folder,
        told,
        FOLDER,
        [],
        [tmp_path / "pip-1-py3-none-any.whl", tmp_path / "own-1-py3-none-any.whl"],
        tag="a:1",
        base_image="b",
    )
    files = {file.name: file.source for file in recipe.context.files}
    assert not [name for name in files if "notes" in name]
    inside = tmp_path / "unpacked"
    for name, source in files.items():
        if name.startswith("bundle/"):
            path = inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    assert load_bundle(inside / "bundle", check_weights=True) == told
    assert load_bundle(bundle_folder).challenge == "acdc"


def test_labels_name_challenge_profile_and_model(tmp_path):
    engine = FakeEngine()
    recipe = probe_recipe(tmp_path, "nnbox-acdc:1", "python:3.11-slim")
    facts = build_image(engine, recipe, lambda line: None)
    assert facts.user == "1000:1000"
    bundled = [file for file in recipe.context.files if file.name.startswith("bundle/")]
    expected = {
        "org.nnunet-box.challenge": "acdc",
        "org.nnunet-box.profile": "folder",
        "org.nnunet-box.dataset": "acdc",
        "org.opencontainers.image.base.digest": "sha256:base",
        "org.nnunet-box.model.sha256": files_sha256(bundled),
        "org.opencontainers.image.base.name": "python:3.11-slim",
    }
    assert expected.items() <= facts.labels.items()
    assert json.loads(facts.labels["org.nnunet-box.postprocessing"])["steps"] == [[2]]
    assert "org.nnunet-box.stage" not in facts.labels


def test_the_models_hash_follows_names_and_bytes(tmp_path):
    bundled = [file for file in probe_recipe(tmp_path, "a:1", "b").context.files if file.name.startswith("bundle/")]
    before = files_sha256(bundled)
    assert files_sha256(list(reversed(bundled))) == before
    assert files_sha256([replace(file, name=f"{file.name}x") for file in bundled]) != before
    weights = next(file.source for file in bundled if isinstance(file.source, Path))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert files_sha256(bundled) != before


def based(result: RunResult | Exception) -> FakeEngine:
    """An engine whose base image says ``result`` when asked about its Python."""

    def answer(image, command, limits):
        assert command[0] == "python3"
        if isinstance(result, Exception):
            raise result
        return result

    facts = ImageFacts("sha256:1", ("base:1",), 1, "", "amd64", (), {})
    return FakeEngine(images={"base:1": facts}, answer=answer)


def test_a_base_with_this_python_fits():
    assert check_base(based(RunResult(0, json.dumps(THIS_PYTHON), "")), "base:1") == "sha256:1"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (RunResult(0, json.dumps(THIS_PYTHON | {"python": "3.9"}), ""), r"python 3\.9 instead of 3"),
        (RunResult(0, json.dumps(THIS_PYTHON | {"libc": ""}), ""), "libc unknown instead of"),
        (RunResult(0, json.dumps(THIS_PYTHON | {"machine": "riscv64"}), ""), "machine riscv64"),
        (RunResult(1, "", "Traceback\nModuleNotFoundError: No module named 'ensurepip'\n"), "ensurepip"),
        (StartFailed("python3: not found"), "no python3"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_with_what_to_do(result, message):
    with pytest.raises(UsageError, match=message) as refusal:
        check_base(based(result), "base:1")
    assert "--base-image" in str(refusal.value)


@pytest.fixture(scope="module")
def probe_image(base_image: str, tmp_path_factory) -> Iterator[tuple[DockerEngine, str, ImageFacts]]:
    """The image of the stand-in program, built by the real engine."""
    engine, tag = DockerEngine(), f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    facts = build_image(engine, probe_recipe(tmp_path_factory.mktemp("image"), tag, base_image), lambda line: None)
    yield engine, tag, facts
    engine.remove(tag)
    remove_stages(STAGE)


def run_probe(image, tmp_path: Path, limits: RunLimits) -> dict:
    engine, tag, _ = image
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "patient101").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    mounts = [Mount(tmp_path / "in", "/input", read_only=True), Mount(tmp_path / "out", "/output")]
    result = engine.run(tag, mounts=mounts, limits=limits)
    assert result.exit_code == 0, result.stderr
    assert (result.stdout, result.stderr) == ("probe done\n", "")
    return json.loads((tmp_path / "out" / "probe.json").read_text())


@pytest.mark.docker
def test_the_image_is_what_organisers_ask_for(probe_image, base_image):
    _, tag, facts = probe_image
    assert facts.user == "1000:1000"
    assert facts.tags == (tag,)
    assert facts.entrypoint[:3] == ("/opt/nnbox/venv/bin/python", "-m", "nnunet_box.inference.entry")
    assert facts.architecture in {"amd64", "arm64"}
    assert facts.labels["org.nnunet-box.challenge"] == "acdc"
    assert "org.nnunet-box.stage" not in facts.labels
    assert facts.labels["org.opencontainers.image.base.name"] == base_image


@pytest.mark.docker
def test_it_runs_as_its_own_user(probe_image, tmp_path):
    seen = run_probe(probe_image, tmp_path, FOLDER.limits)
    assert (seen["uid"], seen["gid"], seen["home"]) == (1000, 1000, "/tmp")
    assert {key: seen["told"][key] for key in ("bundle", "input", "output", "challenge", "layout")} == {
        "bundle": "/opt/nnbox/bundle", "input": "/input", "output": "/output", "challenge": "acdc", "layout": "folder",
    }  # fmt: skip
    assert seen["inputs"] == ["patient101"]
    assert seen["network"] == ["lo"]
    assert seen["challenge"] == "acdc"
    assert seen["unbuffered"] == "1"
    assert seen["bundle_refused"]
    assert seen["input_refused"]
    assert set(seen["modes"].values()) == {"0o755", "0o644"}


@pytest.mark.docker
def test_it_runs_under_every_limit_at_once(probe_image, tmp_path):
    seen = run_probe(probe_image, tmp_path, FOLDER.strictest)
    # On a machine with more cores than that, libgomp gives up the process when it may not start another thread.
    assert seen["threads"]["OMP_THREAD_LIMIT"] >= 1
    assert sum(seen["threads"].values()) < FOLDER.strictest.pids
    assert (seen["uid"], seen["gid"]) == (12345, 12345)
    assert seen["root_refused"]
    assert not seen["tmp_refused"]
    assert seen["shm"] == 64 << 20
    status = dict(line.split(":\t", 1) for line in seen["status"].splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapBnd"], 16) == 0


@pytest.mark.docker
def test_the_user_has_a_passwd_entry_all_is_compiled_and_no_installer_is_left(probe_image):
    engine, tag, _ = probe_image
    program = "import alpha, json, os, importlib.util as u, pwd; e = pwd.getpwuid(1000)"
    compiled = "os.path.isfile(alpha.__cached__)"
    show = f"print(json.dumps([alpha.answer, e.pw_name, e.pw_dir, e.pw_gid, u.find_spec('pip') is None, {compiled}]))"
    result = engine.run(tag, ["-c", f"{program}; {show}"], entrypoint=["/opt/nnbox/venv/bin/python"])
    assert json.loads(result.stdout) == [42, "nnbox", "/tmp", 1000, True, True]


@pytest.mark.docker
def test_the_saved_image_is_one_image_with_its_name(probe_image, tmp_path):
    engine, tag, _ = probe_image
    engine.save(tag, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        (manifest,) = json.load(io.TextIOWrapper(archive.extractfile("manifest.json")))
    assert manifest["RepoTags"] == [tag]


@pytest.mark.docker
@pytest.mark.slow
def test_a_program_that_cannot_be_imported_fails_the_build(base_image, tmp_path):
    tag = f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    recipe, lines = probe_recipe(tmp_path, tag, base_image, entry="import no_such_wheel\n"), list[str]()
    try:
        with pytest.raises(
            BuildFailed, match=r"(?s)import nnunet_box\.inference\.entry.*No module named 'no_such_wheel'"
        ):
            build_image(DockerEngine(), recipe, lines.append)
        with pytest.raises(ImageMissing):
            DockerEngine().inspect(tag)
    finally:
        # The engine keeps what was built up to the failing step.
        DockerEngine().remove([line for line in lines if re.fullmatch("---> [0-9a-f]+", line)][-1].split()[1])
        remove_stages(STAGE)


@pytest.mark.docker
def test_the_ci_base_fits_this_python(base_image):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the base of CI is Debian bookworm with Python 3.11")
    assert check_base(DockerEngine(), base_image).startswith("sha256:")
