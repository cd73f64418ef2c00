"""The README's example as a distribution of its own: found by its entry point, from the download to the upload."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_downloads import SHAPE, labels_of, save

from nnunet_box.cli.app import main
from nnunet_box.dataset.challenge import challenge_names, load_challenge

README = Path(__file__).resolve().parents[2] / "challenges" / "README.md"


@pytest.fixture
def nnbox(tmp_path, monkeypatch, capsys):
    """Run a command with the package ``our_challenges`` installed, as far as Python's metadata can tell."""
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    entry = re.search(r'kidneys = "(our_challenges:Kidneys)"', README.read_text())
    assert code is not None and entry is not None
    site = tmp_path / "site"
    metadata = site / "our_challenges-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "our_challenges.py").write_text(code[1])
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: our-challenges\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[nnunet_box.challenges]\nkidneys = {entry[1]}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["nnbox", *map(str, arguments)])
        ended = 0
        try:
            main()
        except SystemExit as ending:
            ended = int(ending.code or 0)
        told = capsys.readouterr()
        return ended, told.out, told.err

    yield run
    sys.modules.pop("our_challenges", None)


def test_from_the_download_to_the_upload(nnbox, tmp_path):
    assert "kidneys" in challenge_names()
    for number in range(2):
        image = np.ones(SHAPE, np.int16) * np.arange(SHAPE[2], dtype=np.int16)
        save(tmp_path / "in" / f"scan{number}.nii.gz", image, (0.8, 0.9, 3.0))
        save(tmp_path / "in" / f"scan{number}-mask.nii.gz", labels_of(SHAPE, [1], number), (0.8, 0.9, 3.0))
    code, out, err = nnbox("convert", "--challenge", "kidneys", tmp_path / "in")
    assert (code, out) == (0, "nnbox/datasets/kidneys\n"), err

    adapter = load_challenge("kidneys")
    for case in adapter.test_cases(tmp_path / "in", 1):
        adapter.export(np.ones(SHAPE[::-1], np.uint8), case, tmp_path / "predictions")
    command = ("--challenge", "kidneys", "--test-folder", "in")
    code, out, err = nnbox("build-submission", "archive", "predictions", "-o", "up.zip", *command)
    assert code == 0 and out.splitlines()[-1] == "up.zip", err
    code, out, _ = nnbox("verify-submission", "archive", "up.zip", *command, "--json")
    told = json.loads(out)
    assert code == 0 and told["accepted"]
    assert [finding["found"] for finding in told["findings"]] == ["2"]  # of 10 published test cases

    case = adapter.test_cases(tmp_path / "in", 1)[1]
    adapter.export(np.full(SHAPE[::-1], 2, np.uint8), case, tmp_path / "predictions")
    code, out, _ = nnbox("build-submission", "archive", "predictions", "-o", "up.zip", *command)
    assert code == 5 and "error: scan1.nii.gz: expected labels [0, 1]; found 2." in out

    code, out, _ = nnbox("challenges", "show", "kidneys")
    assert code == 0 and "Get the data: ask us [not stated]" in out
