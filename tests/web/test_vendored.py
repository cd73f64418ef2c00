"""The JavaScript that is shipped is what its authors published, and the wheel holds it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnunet_box.web import D3, FOLDER, NIIVUE, PLOT

REPOSITORY = Path(__file__).resolve().parents[2]
LISTED = json.loads((FOLDER / "vendored.json").read_text())["packages"]
LOCK = json.loads((REPOSITORY / "tools" / "web" / "package-lock.json").read_text())["packages"]


@pytest.mark.parametrize("entry", LISTED, ids=lambda entry: entry["package"])
def test_each_file_has_the_digest_it_was_fetched_with(entry):
    assert _digest((FOLDER / entry["file"]).read_bytes()) == entry["sha256"]
    locked = LOCK[f"node_modules/{entry['package']}"]
    assert (entry["version"], entry["integrity"]) == (locked["version"], locked["integrity"])
    assert len(base64.b64decode(entry["integrity"].removeprefix("sha512-"), validate=True)) == 64


def test_every_script_is_listed_and_every_listed_package_has_its_licence():
    assert {entry["file"] for entry in LISTED} == {path.name for path in FOLDER.glob("*.js")}
    assert {D3, NIIVUE, PLOT} == set(FOLDER.glob("*.js"))
    licences = (FOLDER / "LICENSES.txt").read_text().splitlines()
    for place, entry in LOCK.items():
        if place and not entry.get("optional"):
            assert f"{place.removeprefix('node_modules/')} {entry['version']} ({entry['license']})" in licences


@pytest.mark.parametrize("path", [D3, PLOT], ids=lambda path: path.name)
def test_a_page_may_hold_the_plots_scripts_inline(path):
    # Either text would change where the browser sees the end of <script>...</script>.
    text = path.read_text(encoding="utf-8").lower()
    assert "</script" not in text and "<!--" not in text


def test_the_lock_names_no_registry():
    assert not [place for place, entry in LOCK.items() if "resolved" in entry]


def test_the_wheel_holds_all_of_it(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name: _digest(archive.read(name)) for name in archive.namelist() if name.startswith("nnunet_box/web/")}
    assert held == {f"nnunet_box/web/{path.name}": _digest(path.read_bytes()) for path in FOLDER.glob("*.*")}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
