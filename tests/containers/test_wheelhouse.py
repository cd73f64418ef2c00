"""Which wheels an image needs, and that they are fetched once, exactly, and with a message where that fails."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
from container_samples import no_temporaries, write_wheel
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nnbox_containers import wheelhouse as module
from nnbox_containers.wheelhouse import (
    INFERENCE,
    Needs,
    Pin,
    adapter_distribution,
    choose_runtime,
    fill_wheelhouse,
    find_wheel,
    image_needs,
    inference_pins,
)
from nnunet_box.errors import NnboxError, UsageError


@pytest.fixture
def two_pins(monkeypatch) -> tuple[Pin, ...]:
    pins = (Pin("alpha", "1.0"), Pin("beta", "2.0+cpu"))
    monkeypatch.setattr(module, "build_pip", lambda: Pin("pip", "9.0"))
    monkeypatch.setattr(module, "inference_pins", lambda needs: pins)
    return pins


@pytest.fixture
def pip(monkeypatch) -> list[list[str]]:
    """Stands in for pip: writes the wheel it is asked for; returns the calls."""
    calls: list[list[str]] = []

    def run(command, **options):
        calls.append(command)
        assert "shell" not in options
        name, _, wanted = command[-1].partition("==")
        write_wheel(Path(command[command.index("--dest") + 1]), name, wanted, {f"{name}.py": ""})
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(module.subprocess, "run", run)
    return calls


def test_pins_are_closed_over_requirements_and_as_installed():
    pins = {pin.name: pin.version for pin in inference_pins(Needs("cuda", itk=True))}
    assert {canonicalize_name(name) for name in (*INFERENCE, "torch", "SimpleITK")} <= pins.keys()
    for name in pins:
        assert pins[name] == version(name)
        for text in Distribution.from_name(name).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in pins, f"{name} needs {requirement}"


def test_what_only_training_or_the_command_line_needs_stays_out():
    assert not {"typer", "docker", "batchgenerators", "pillow", "pip", "nnunet-box", "nnunet_box"} & {
        p.name for p in inference_pins(Needs("cuda", itk=True))
    }


def test_a_cpu_image_has_neither_torch_nor_what_no_nifti_needs():
    pins = {pin.name for pin in inference_pins(image_needs("cpu", "acdc"))}
    assert pins >= {"openvino", "numpy", "nibabel", "safetensors", "pydantic", "connected-components-3d"}
    assert not pins & {"torch", "scipy", "simpleitk", "blosc2", "edt", "pip", "openvino-telemetry"}
    assert "openvino" not in {pin.name for pin in inference_pins(image_needs("cuda", "acdc"))}


def test_itk_comes_where_files_need_it(monkeypatch):
    assert not image_needs("cpu", "acdc", (".nii.gz",)).itk
    assert not image_needs("cpu", None, (".mha",)).itk
    assert image_needs("cpu", "acdc", (".nrrd",)).itk
    foreign = SimpleNamespace(name="liver2030", dist=SimpleNamespace(name="our-hospital"))
    monkeypatch.setattr(module, "entry_points", lambda group: [foreign])
    assert image_needs("cpu", "liver2030").itk
    assert image_needs("cpu", "liver2030").adapter == "our-hospital"


@pytest.mark.parametrize(
    ("torch", "openvino", "chosen"),
    [
        (("2.9+cu126", []), True, "cuda"),
        (("2.9", ["nvidia-cudnn-cu12; platform_system == 'Linux' or platform_system != 'Linux'"]), True, "cuda"),
        (("2.9+cpu", ["sympy"]), True, "cpu"),
        (("2.9+cpu", ["sympy"]), False, "cuda"),
        (None, True, "cpu"),
    ],
)
def test_auto_follows_what_is_installed(monkeypatch, torch, openvino, chosen):
    def distribution(name):
        assert name == "torch"
        if torch is None:
            raise PackageNotFoundError(name)
        return SimpleNamespace(version=torch[0], requires=torch[1])

    monkeypatch.setattr(module, "distribution", distribution)
    monkeypatch.setattr(module, "find_spec", lambda name: object() if openvino else None)
    assert choose_runtime("auto") == chosen
    assert choose_runtime("cpu") == "cpu"
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        choose_runtime("tpu")


def test_extras_and_markers_are_followed(monkeypatch):
    requires = {
        "numpy": ["nibabel[deep]", "absent; python_version < '3'"],
        "nibabel": ["edt; extra == 'deep'", "absent; extra == 'wide'"],
        "edt": None,
    }
    monkeypatch.setattr(module, "INFERENCE", ("numpy",))
    monkeypatch.setattr(module, "RUNTIMES", {"cuda": ()})
    monkeypatch.setattr(module, "distribution", lambda name: SimpleNamespace(version="1", requires=requires[name]))
    assert [pin.name for pin in inference_pins(Needs("cuda"))] == ["edt", "nibabel", "numpy"]


def test_what_is_needed_and_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(module, "INFERENCE", ("no-such-distribution",))
    with pytest.raises(NnboxError, match="pip install 'no-such-distribution'"):
        inference_pins(Needs("cuda", itk=True))


def test_only_the_same_version_for_this_python_counts(tmp_path):
    for name in ("beta-2.0-py3-none-any.whl", "beta-2.0+cpu-cp27-cp27m-win32.whl", "beta-2.0+cpu.zip", "beta.whl"):
        (tmp_path / name).touch()
    pin = Pin("beta", "2.0+cpu")
    assert find_wheel(tmp_path, pin) is None
    (tmp_path / "Beta-2.0+cpu-py3-none-any.whl").touch()
    assert find_wheel(tmp_path, pin).name == "Beta-2.0+cpu-py3-none-any.whl"
    assert find_wheel(tmp_path / "absent", pin) is None


def test_fetched_once_then_kept(tmp_path, two_pins, pip):
    wheels = fill_wheelhouse(tmp_path / "w", Needs())
    assert [wheel.name.split("-")[0] for wheel in wheels] == ["alpha", "beta", "pip", "nnunet_box"]
    assert all(wheel.is_file() for wheel in wheels)
    assert [call[-1] for call in pip] == ["alpha==1.0", "beta==2.0+cpu", "pip==9.0"]
    for call in pip:
        assert call[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:"} <= set(call)
        assert not [part for part in call if "index" in part]
    assert fill_wheelhouse(tmp_path / "w", Needs()) == wheels
    assert len(pip) == 3
    (tmp_path / "w" / "alpha-1.0-py3-none-any.whl").unlink()
    assert fill_wheelhouse(tmp_path / "w", Needs()) == wheels
    assert [call[-1] for call in pip[3:]] == ["alpha==1.0"]
    assert no_temporaries(tmp_path)


def test_our_own_wheel_follows_the_sources(tmp_path, two_pins, pip):
    own = fill_wheelhouse(tmp_path, Needs())[-1]
    good = own.read_bytes()
    own.write_bytes(b"of yesterday")
    assert fill_wheelhouse(tmp_path, Needs())[-1].read_bytes() == good


@pytest.mark.parametrize("kind", ["fails", "other", "nothing"])
def test_where_pip_fails_the_message_says_what_to_do(tmp_path, monkeypatch, two_pins, kind):
    def run(command, **_):
        if kind == "other":
            write_wheel(Path(command[command.index("--dest") + 1]), "alpha", "9.9", {})
        return SimpleNamespace(returncode=int(kind == "fails"), stderr="noise\nERROR: no matching distribution\n")

    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(NnboxError, match=r"alpha==1\.0") as refusal:
        fill_wheelhouse(tmp_path, Needs())
    assert str(tmp_path) in str(refusal.value)
    if kind == "fails":
        assert "no matching distribution" in str(refusal.value)
    assert no_temporaries(tmp_path)


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, two_pins):
    def run(command, **_):
        Path(command[command.index("--dest") + 1], "half.whl").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        fill_wheelhouse(tmp_path, Needs())
    assert list(tmp_path.rglob("*")) == []


def test_without_pip_the_message_says_how_to_get_it(tmp_path, monkeypatch, two_pins):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(NnboxError, match="ensurepip"):
        fill_wheelhouse(tmp_path, Needs())


def test_a_third_partys_adapter_has_to_be_laid_in(tmp_path, monkeypatch, pip):
    pins = (Pin("alpha", "1.0"), Pin("our-hospital", "3.1"))
    monkeypatch.setattr(module, "build_pip", lambda: Pin("pip", "9.0"))
    monkeypatch.setattr(module, "inference_pins", lambda needs: pins)
    monkeypatch.setattr(module, "distribution", lambda name: SimpleNamespace(version="3.1"))
    with pytest.raises(UsageError, match=r"our-hospital 3\.1.*pip wheel"):
        fill_wheelhouse(tmp_path, Needs(adapter="our-hospital"))
    # Nothing of that name is asked of an index, where it might be a stranger's.
    assert pip == []
    write_wheel(tmp_path, "our_hospital", "3.1", {})
    assert "our_hospital-3.1-py3-none-any.whl" in [
        wheel.name for wheel in fill_wheelhouse(tmp_path, Needs(adapter="our-hospital"))
    ]


def test_our_adapters_need_no_other_distribution(monkeypatch):
    assert adapter_distribution("acdc") is None
    with pytest.raises(UsageError, match="acdc"):
        adapter_distribution("no-such")
    foreign = SimpleNamespace(name="liver2030", dist=SimpleNamespace(name="our-hospital"))
    monkeypatch.setattr(module, "entry_points", lambda group: [foreign])
    assert adapter_distribution("liver2030") == "our-hospital"


@pytest.mark.slow
def test_pip_itself_takes_a_wheel_from_where_it_is_configured_to(tmp_path, monkeypatch):
    source = tmp_path / "source"
    write_wheel(source, "alpha", "1.0", {"alpha.py": ""})
    monkeypatch.setattr(module, "inference_pins", lambda needs: ())
    monkeypatch.setattr(module, "build_pip", lambda: Pin("alpha", "1.0"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source))
    monkeypatch.setattr(module.subprocess, "run", subprocess.run)
    assert (tmp_path / "w" / "alpha-1.0-py3-none-any.whl") in fill_wheelhouse(tmp_path / "w", Needs())
