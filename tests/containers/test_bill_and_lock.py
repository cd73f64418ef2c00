"""The lock that pip installs by, and the bill of materials that says what it installed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from container_samples import write_wheel

from nnbox_containers.lock import locked_requirements
from nnbox_containers.sbom import software_bill
from nnbox_containers.wheelhouse import Pin
from nnunet_box.errors import InvalidData

METADATA = "Metadata-Version: 2.4\nName: {0}\nVersion: {1}\n{2}"


def wheel(folder: Path, name: str, version: str, licence: str = "") -> Path:
    """A wheel whose METADATA has the lines ``licence``."""
    import zipfile

    plain = write_wheel(folder / "plain", name, version, {"x.py": f"# {name}"})
    path = folder / plain.name
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            text = METADATA.format(name, version, licence) if entry.endswith("METADATA") else old.read(entry)
            new.writestr(entry, text)
    return path


LICENCES = {
    "expression": ("License-Expression: MIT OR Apache-2.0\n", [{"expression": "MIT OR Apache-2.0"}]),
    "classifier": ("License: x\nClassifier: License :: OSI Approved :: MIT License\n", [{"license": {"id": "MIT"}}]),
    "several-kinds": ("Classifier: License :: OSI Approved :: BSD License\n", [{"license": {"name": "BSD License"}}]),
    "name": ("License: 3-clause BSD\n", [{"license": {"name": "3-clause BSD"}}]),
    "whole-text": (f"License: {'word ' * 40}\n", None),
    "none": ("", None),
}  # fmt: skip


@pytest.fixture
def wheels(tmp_path: Path) -> dict[str, Path]:
    return {name: wheel(tmp_path, name.replace("-", "_"), "1.0+cpu", text) for name, (text, _) in LICENCES.items()}


def bill(wheels: dict[str, Path], program: Path, base: str | None = "sha256:1") -> bytes:
    pins = [Pin(name, "1.0+cpu") for name in wheels]
    return software_bill("nnU-Net for x", "0.1", pins, list(wheels.values()), program, "debian:12", base)


def test_the_bill_names_every_wheel_with_hash_and_licence(wheels, tmp_path):
    program = wheel(tmp_path, "nnunet_box", "0.1.0", "License-Expression: Apache-2.0\n")
    told = json.loads(bill(wheels, program))
    parts = {part["name"]: part for part in told["components"]}
    for name, (_, licences) in LICENCES.items():
        assert parts[name]["version"] == "1.0+cpu"
        assert parts[name]["purl"] == f"pkg:pypi/{name}@1.0%2Bcpu"
        assert parts[name]["hashes"][0]["content"] == hashlib.sha256(wheels[name].read_bytes()).hexdigest()
        assert parts[name].get("licenses") == licences
    assert parts["nnunet-box"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert parts["debian:12"]["version"] == "sha256:1"
    (dependency,) = told["dependencies"]
    assert len(dependency["dependsOn"]) == len(told["components"])
    assert bill(wheels, program) == bill(wheels, program)
    assert json.loads(bill(wheels, program, None))["serialNumber"] != told["serialNumber"]


def test_the_bill_is_valid_by_the_schema(wheels, tmp_path):
    pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib[json-validation] is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    program = wheel(tmp_path, "nnunet_box", "0.1.0")
    validate = JsonStrictValidator(SchemaVersion.V1_6).validate_str
    text = bill(wheels, program).decode()
    assert validate(text) is None
    assert validate(text.replace('"type": "library"', '"type": "book"', 1)) is not None


def test_wheels_that_are_yet_to_come_and_those_that_are_none(tmp_path):
    missing = Path("alpha==1.0 (to be fetched)")
    told = json.loads(software_bill("t", "1", [Pin("alpha", "1.0")], [missing], Path("own (to be packed)"), "b", None))
    assert "hashes" not in told["components"][0]
    broken = tmp_path / "alpha-1.0-py3-none-any.whl"
    broken.write_bytes(b"no zip")
    with pytest.raises(InvalidData, match="a wheel with its METADATA"):
        software_bill("t", "1", [Pin("alpha", "1.0")], [broken], missing, "b", None)


def test_pip_installs_by_the_lock_and_nothing_else(tmp_path):
    pins, good = [Pin("alpha", "1.0")], wheel(tmp_path / "w", "alpha", "1.0")
    (tmp_path / "requirements.txt").write_text(locked_requirements(pins, [good]))

    def install() -> subprocess.CompletedProcess:
        options = ["--no-index", "--no-deps", "--require-hashes", "--find-links", tmp_path / "w"]
        where = ["--target", tmp_path / "to", "-r", tmp_path / "requirements.txt"]
        return subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *where], capture_output=True, text=True
        )

    assert install().returncode == 0
    content = bytearray(good.read_bytes())
    good.write_bytes(content + b"\0")
    refused = install()
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_the_lock_of_a_wheel_that_is_not_here_has_no_hash():
    assert locked_requirements([Pin("alpha", "1.0")], [Path("alpha==1.0 (to be fetched)")]) == "alpha==1.0\n"
