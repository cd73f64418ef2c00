"""The image without torch: how large it is, what it lacks, and that it predicts ACDC's test folder as torch does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import nibabel
import numpy as np
import pytest
from image_samples import ProfileImage, label_map, open_folder, plain_folder, readable

from nnbox_challenges.synthetic import write_acdc_cohort
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.engine import Mount, RunLimits

pytestmark = pytest.mark.docker
MOST_BYTES = 350_000_000
"""Beyond base image and weights."""

MOST_BASE_BYTES = 160_000_000
ABSENT = ("torch", "scipy", "SimpleITK", "blosc2", "edt", "pip", "openvino_telemetry", "openvino.tools", "docker")
AGREE = 0.9999


@pytest.fixture(scope="module")
def image(profile_image: Callable[[str], ProfileImage]) -> ProfileImage:
    return profile_image("folder")


def python(image: ProfileImage, program: str) -> str:
    """What a program prints that the image's own Python runs."""
    result = image.engine.run(image.tag, ["-c", program], entrypoint=["/opt/nnbox/venv/bin/python"])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_it_is_small(image, base_image):
    weights = sum(path.stat().st_size for path in image.model.rglob("*") if path.is_file())
    beyond = image.facts.size_bytes - DockerEngine().inspect(base_image).size_bytes - weights
    assert 50_000_000 < beyond <= MOST_BYTES


def test_our_own_base_is_small_and_says_what_it_is(base_image):
    facts = DockerEngine().inspect(base_image)
    if "org.nnunet-box.base.recipe" not in facts.labels:
        pytest.skip(f"{base_image} is not made by containers/base/debian.sh")
    assert facts.size_bytes <= MOST_BASE_BYTES
    assert facts.labels["org.nnunet-box.base.suite"] == "bookworm"
    program = "import bz2, ctypes, hashlib, lzma, sqlite3, ssl, venv; ssl.create_default_context()"
    shells = f"bash -c 'echo shells' && python3 -c '{program}'"
    result = DockerEngine().run(base_image, ["-c", shells], entrypoint=["sh"])
    assert result.exit_code == 0, result.stderr
    assert "shells" in result.stdout
    missing = DockerEngine().run(base_image, ["-c", "command -v perl apt man pip3"], entrypoint=["sh"])
    assert missing.stdout == ""


def test_it_lacks_what_prediction_does_not_need(image):
    program = f"""
import importlib.util, json
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
print(json.dumps({{name: there(name) for name in {ABSENT!r} + ("openvino", "numpy", "nibabel")}}))
"""
    found = json.loads(python(image, program))
    assert found == dict.fromkeys(ABSENT, False) | dict.fromkeys(("openvino", "numpy", "nibabel"), True)


def test_its_packages_are_compiled_and_hold_no_tests(image):
    program = """
import json, pathlib, sysconfig
packages = pathlib.Path(sysconfig.get_path("purelib"))
sources = [path for path in packages.rglob("*.py")]
compiled = {path.parent.parent / (path.name.split(".")[0] + ".py") for path in packages.rglob("__pycache__/*.pyc")}
print(json.dumps({
    "sources": len(sources),
    "missing": len(set(sources) - compiled),
    "tests": [str(path) for path in packages.rglob("tests") if path.is_dir()],
}))
"""
    found = json.loads(python(image, program))
    assert found["tests"] == []
    assert found["sources"] > 500
    # nibabel and pydantic ship a few files that are no Python of this version.
    assert found["missing"] < 0.02 * found["sources"]


@pytest.mark.slow
def test_labels_are_those_torch_gives_here(image, tmp_path):
    """The challenge's own test folder, every limit the image promises to work under."""
    cohort = write_acdc_cohort(tmp_path / "acdc", patients=5, test_patients=1, seed=3, size=32, slices=(3, 3))
    for file in (cohort / "testing").rglob("*_frame*.nii.gz"):
        # Small patients, so that their grid at the network's 1 mm has few windows.
        frame = nibabel.load(file)
        frame.header["pixdim"][1:4] = (1.25, 1.25, 2.5)
        voxels = np.asanyarray(frame.dataobj)
        nibabel.save(nibabel.Nifti1Image(voxels, None, frame.header), file)
    source, out = readable(cohort / "testing"), open_folder(tmp_path / "out")
    result = image.run(source, out, arguments=["--no-mirroring"])
    assert result.exit_code == 0, result.stderr
    run = json.loads((out / "run.json").read_text())
    assert run["runtime"].startswith("openvino on ")
    assert 0 < run["seconds"]["start"] < 600
    names = [case["file"] for case in run["cases"]]
    assert len(names) == 2
    here = tmp_path / "here"
    options = ["--bundle", image.model, "--input", source, "--output", here, "--runtime", "torch", "--no-mirroring"]
    command = [sys.executable, "-m", "nnunet_box.inference.entry", *map(str, options)]
    subprocess.run(command, check=True, capture_output=True)
    for name in names:
        found, expected = label_map(out / name), label_map(here / name)
        assert len(set(expected.ravel().tolist())) > 1
        assert (found == expected).mean() >= AGREE


def test_the_first_window_comes_within_two_seconds(image, tmp_path):
    """Of processor time, which other programs on this machine do not stretch; a core that is free takes no longer."""
    program = """
import sys, time
from nnunet_box.inference import entry, timing
def age():
    print("first window:", time.process_time())
    return 0.0
timing.process_age = age
sys.exit(entry.main(["--no-mirroring"]))
"""
    source, out = plain_folder(tmp_path / "in", "one"), open_folder(tmp_path / "out")
    mounts = [Mount(source, "/input", read_only=True), Mount(out, "/output")]
    result = image.engine.run(image.tag, ["-c", program], mounts, entrypoint=["/opt/nnbox/venv/bin/python"])
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("first window:")]
    assert 0.1 < float(line.split(":")[1]) < 2


def test_a_quota_on_processor_time_limits_its_threads(image):
    program = "from nnunet_box.cpus import usable_threads; print(usable_threads())"
    entrypoint = ["/opt/nnbox/venv/bin/python"]
    limited = image.engine.run(image.tag, ["-c", program], (), RunLimits(cpus=1.0), entrypoint)
    assert limited.stdout.strip() == "1"
