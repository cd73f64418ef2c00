"""``--json``: every command that answers with data has it, and then stdout is one value of standard JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import typer

from nnunet_box.cli import manual
from nnunet_box.cli.common import print_json
from tests.docs.conftest import run
from tests.docs.documented import REPOSITORY, TINY

FILES_ONLY = {
    "preprocess": "prints the folders it filled, one a line",
    "build-submission bundle": "prints the folder it wrote",
    "view": "prints the address of a page, which lives until Ctrl-C",
}
"""Commands without ``--json``: what they answer is the path of a file or folder, or an address."""

CALLS = {
    "convert": "convert --challenge acdc ACDC/database",
    "check": "check acdc",
    "plan": "plan acdc",
    "select": "select acdc",
    "status": "status acdc",
    "train": f"train acdc --configuration 2d --fold 0 {TINY}",
    "train-all": f"train-all acdc --folds 0 {TINY}",
    "report": "report acdc",
    "ablate": f"ablate acdc --variants relu {TINY}",
    "predict": "predict nnbox/bundles/acdc ACDC/database/testing predictions",
    "evaluate": "evaluate predictions references",
    "import-nnunet": "import-nnunet nnUNetTrainer__nnUNetPlans__3d_fullres -o imported",
    "doctor": "doctor",
    "challenges": "challenges",
    "challenges show": "challenges show lits",
    "profiles": "profiles",
    "profiles show": "profiles show brats",
    "build-submission image": "build-submission image acdc --dry-run",
    "build-submission archive": "build-submission archive -c acdc predictions --test-folder ACDC/database/testing",
    "verify-submission archive": "verify-submission archive nnbox/submissions/acdc.zip -c acdc "
    "--test-folder ACDC/database/testing",
}
"""A call of each command, in an order in which each finds what it needs."""

ELSEWHERE = {
    "build-submission wheelhouse": "tests/containers/test_build_submission.py",
    "verify-submission image": "tests/cli/test_verify_image_command.py",
    "demo": "tests/e2e/test_demo.py",
}
"""Called with ``--json`` by the tests of what they need: wheels, an engine, minutes."""


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


def listed() -> dict[str, Any]:
    from nnunet_box.cli.app import app

    return dict(manual.commands(typer.main.get_command(app)))


def has_json(command: Any) -> bool:
    return any("--json" in parameter.opts for parameter in command.params)


def test_every_command_that_answers_with_data_has_json():
    without = {name for name, command in listed().items() if not has_json(command)}
    assert without == set(FILES_ONLY)


def test_every_json_is_read_by_a_test():
    assert {name for name, command in listed().items() if has_json(command)} == {*CALLS, *ELSEWHERE}
    for name, where in ELSEWHERE.items():
        text = (REPOSITORY / where).read_text(encoding="utf-8")
        assert "json" in text and name.split()[-1] in text, f"{where} does not call {name} --json"


@pytest.mark.parametrize("name", CALLS)
def test_stdout_is_one_json_value(name, trained):
    ended = run(trained, f"nnbox {CALLS[name]} --json")
    assert ended.code == 0, ended.err
    value = json.loads(ended.out, parse_constant=refuse)
    assert isinstance(value, dict | list) and (value or name == "check")
    assert ended.out.isascii()


def test_findings_are_told_in_json_too_where_the_command_fails(trained):
    broken = trained / "broken"
    for folder in ("imagesTr", "labelsTr"):
        (broken / folder).mkdir(parents=True, exist_ok=True)
    (broken / "dataset.json").write_text('{"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}}')
    (broken / "imagesTr" / "case_0000.nii.gz").write_bytes(b"nothing")
    ended = run(trained, "nnbox check broken --json")
    assert ended.code == 3
    findings = json.loads(ended.out, parse_constant=refuse)
    assert findings and all(finding["fix"] for finding in findings)


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_a_dry_run_is_told_in_json(executor, trained):
    ended = run(trained, f"nnbox train-all acdc --folds 0 {TINY} --executor {executor} --dry-run --json")
    value = json.loads(ended.out, parse_constant=refuse)
    if executor == "local":
        assert {task["state"] for task in value["tasks"]} == {"done"}
        assert all(task["argv"][0] == "nnbox" for task in value["tasks"])
    else:
        assert value["script"].startswith("#!")


def test_what_is_undefined_is_null(capsys):
    print_json(
        {"dice": math.nan, "hd": [math.inf, np.float32("-inf"), np.float64(0.5), np.int64(3)], "name": "é\udcff"}
    )
    text = capsys.readouterr().out
    assert text.isascii()
    value = json.loads(text, parse_constant=refuse)
    assert value == {"dice": None, "hd": [None, None, 0.5, 3], "name": "é\udcff"}


def test_commands_write_json_in_one_way():
    for file in (REPOSITORY / "nnunet_box" / "cli").glob("*.py"):
        found = re.findall(r"json\.dumps|model_dump_json", file.read_text(encoding="utf-8"))
        assert not found or file.name == "common.py", f"{file.name}: use print_json"
