"""The repacked wheel is one that pip and importlib.metadata take for the real thing."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points

import pytest

from nnbox_containers import own_wheel as module
from nnbox_containers.own_wheel import PACKAGES, own_wheel
from nnunet_box import __version__
from nnunet_box.errors import NnboxError


@pytest.fixture(scope="module")
def wheel() -> tuple[str, bytes]:
    return own_wheel()


def test_record_names_every_file_with_its_hash(wheel):
    with zipfile.ZipFile(io.BytesIO(wheel[1])) as archive:
        assert archive.testzip() is None
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, digest, size in rows:
            if name == record:
                assert (digest, size) == ("", "")
                continue
            content = archive.read(name)
            kind, _, value = digest.partition("=")
            assert kind == "sha256"
            assert base64.urlsafe_b64decode(value + "=") == hashlib.sha256(content).digest()
            assert int(size) == len(content)


def test_it_holds_packages_and_templates_and_no_rubbish(wheel):
    name, content = wheel
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
    assert name == f"nnunet_box-{__version__}-py3-none-any.whl"
    assert {inside.split("/")[0] for inside in names} == {*PACKAGES, f"nnunet_box-{__version__}.dist-info"}
    for package in PACKAGES:
        assert {f"{package}/__init__.py", f"{package}/py.typed"} <= set(names)
    assert "nnbox_containers/templates/image.Dockerfile" in names
    assert f"nnunet_box-{__version__}.dist-info/licenses/LICENSE" in names
    assert not [inside for inside in names if "__pycache__" in inside or inside.endswith(".pyc") or "/." in inside]


def test_packed_twice_it_is_the_same_bytes(wheel):
    assert own_wheel() == wheel


def test_pip_installs_it_and_the_adapters_are_found(wheel, tmp_path):
    path = tmp_path / wheel[0]
    path.write_bytes(wheel[1])
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, path]
    subprocess.run(command, check=True, capture_output=True)
    # -S and -I: only the target is searched, so the editable or regular install here cannot answer instead.
    program = (
        "import sys, json; sys.path[:0] = [sys.argv[1]]\n"
        "from importlib.metadata import entry_points, version\n"
        "from importlib.util import find_spec\n"
        "found = {p.name: p.value for p in entry_points(group='nnunet_box.challenges')}\n"
        "print(json.dumps([version('nnunet_box'), found, find_spec('nnbox_challenges').origin]))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program, target], check=True, capture_output=True, text=True
    )
    version, found, origin = json.loads(done.stdout)
    assert version == __version__
    ours = [point for point in entry_points(group="nnunet_box.challenges") if point.dist.name == "nnunet_box"]
    assert found == {point.name: point.value for point in ours}
    assert {"acdc", "decathlon"} <= found.keys()
    assert origin == str(target / "nnbox_challenges" / "__init__.py")


def test_an_image_gets_no_scripts_of_pages(wheel):
    names = zipfile.ZipFile(io.BytesIO(wheel[1])).namelist()
    assert "nnunet_box/inference/entry.py" in names
    assert not [name for name in names if name.startswith("nnunet_box/web/")]


def test_without_an_installation_it_says_how_to_install(monkeypatch):
    monkeypatch.setattr(module, "DISTRIBUTION", "nnunet-box-that-is-not-there")
    with pytest.raises(NnboxError, match="pip install"):
        own_wheel()
