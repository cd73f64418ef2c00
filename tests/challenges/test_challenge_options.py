"""Options that a challenge leaves open, and the folds asked for, from the command line to cases.json."""

from __future__ import annotations

import json

import pytest
from tiny_bcv import write_bcv
from tiny_ms_lesions import write_ms_lesions
from typer.testing import CliRunner

from nnbox_challenges.ms_lesions import MsLesions
from nnunet_box.cli.app import app
from nnunet_box.dataset.challenge import load_challenge
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.splits import load_or_make_folds, nnunet_folds
from nnunet_box.errors import InvalidData, UsageError


def nnbox(*arguments):
    """Run a command; errors come out as they are raised."""
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False)


@pytest.fixture
def lesions(tmp_path):
    return write_ms_lesions(tmp_path / "ISBI", {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}, (1,))


def declared(folder):
    return json.loads((folder / "cases.json").read_text())


def test_options_are_checked_before_anything_is_read():
    assert load_challenge("ms_lesions", {"rater": "staple", "team": "we"}).team == "we"
    with pytest.raises(UsageError, match="acdc has no option 'rater'. It takes: none."):
        load_challenge("acdc", {"rater": "union"})
    with pytest.raises(UsageError, match="ms_lesions has no option 'raters'. It takes: rater, team, connectivity."):
        load_challenge("ms_lesions", {"raters": "union"})
    with pytest.raises(UsageError, match="rater is one of both, 1, 2, union, intersection, staple, not 'majority'"):
        load_challenge("ms_lesions", {"rater": "majority"})


def test_defaults_of_the_options_are_the_constructors():
    for name in ("ms_lesions", "bcv"):
        challenge = load_challenge(name)
        assert challenge.options
        assert {option.name: getattr(challenge, option.name) for option in challenge.options} == {
            option.name: option.default for option in challenge.options
        }


def test_convert_with_an_option(lesions, tmp_path):
    nnbox("convert", "-c", "ms_lesions", lesions, "-w", tmp_path / "ws", "--option", "rater=union")
    dataset = load_dataset(tmp_path / "ws/datasets/ms_lesions")
    assert [case.rater for case in dataset.cases] == ["union"] * 5
    with pytest.raises(UsageError, match="write NAME=VALUE"):
        nnbox("convert", "-c", "ms_lesions", lesions, "-w", tmp_path / "no", "--option", "union")
    with pytest.raises(UsageError, match="acdc has no option"):
        nnbox("convert", "-c", "acdc", lesions, "-w", tmp_path / "no", "--option", "rater=1")
    assert not (tmp_path / "no").exists()


def test_evaluate_with_an_option(lesions, tmp_path):
    masks = lesions / "training/training01/masks"
    arguments = ("evaluate", masks, masks, "--challenge", "ms_lesions", "--json", "--option", "connectivity=26")
    assert json.loads(nnbox(*arguments).stdout)["connectivity"] == 26


def test_show_lists_the_options():
    shown = nnbox("challenges", "show", "ms_lesions").stdout
    assert "--option rater=both" in shown and "union, intersection, staple" in shown
    assert json.loads(nnbox("challenges", "show", "bcv", "--json").stdout)["options"][0]["name"] == "pattern"


def test_splits_nnunet_reaches_the_folds(tmp_path):
    source = write_bcv(tmp_path / "Abdomen", training=range(1, 8))
    workspace = tmp_path / "ws"
    nnbox("convert", "-c", "bcv", source, "-w", workspace, "--splits", "nnunet")
    folder = workspace / "datasets" / "bcv"
    assert declared(folder)["splits"] == "nnunet"
    dataset = load_dataset(folder)
    folds = workspace / "preprocessed" / "bcv" / "splits.json"
    assert load_or_make_folds(folds, dataset) == nnunet_folds(dataset.cases)
    # Folds that are there would be used: asking for others is an error, not a wish.
    with pytest.raises(UsageError, match=r"splits.json is there and would be used"):
        nnbox("convert", "-c", "bcv", source, "-w", workspace, "--overwrite", "--splits", "groups")
    assert declared(folder)["splits"] == "nnunet"
    with pytest.raises(UsageError, match="groups or nnunet"):
        nnbox("convert", "-c", "bcv", source, "-w", tmp_path / "other", "--splits", "random")


def test_splits_nnunet_of_the_lesions_is_leave_one_patient_out(lesions, tmp_path):
    nnbox("convert", "-c", "ms_lesions", lesions, "-w", tmp_path / "ws", "--splits", "nnunet")
    assert declared(tmp_path / "ws/datasets/ms_lesions")["splits"] == "leave-one-group-out"
    done = nnbox("convert", "-c", "ms_lesions", lesions, "-w", tmp_path / "ws2", "--splits", "groups", "--json")
    assert json.loads(done.stdout)["splits"] == "groups"
    folds = load_or_make_folds(tmp_path / "splits.json", load_dataset(tmp_path / "ws2/datasets/ms_lesions"))
    assert sorted(len(fold.val) for fold in folds) == [2] * 5


def test_a_data_set_of_another_rule_is_refused(lesions, tmp_path, converted):
    folder = converted(MsLesions(), lesions)
    content = declared(folder)
    (folder / "cases.json").write_text(json.dumps({**content, "splits": "by horoscope"}))
    with pytest.raises(InvalidData, match="cases.json as nnbox convert writes it"):
        load_dataset(folder)


def test_train_all_converts_with_options(lesions, tmp_path):
    arguments = (
        "train-all",
        "-w",
        tmp_path / "ws",
        "--challenge",
        "ms_lesions",
        "--dry-run",
        "--option",
        "rater=union",
    )
    with pytest.raises(UsageError, match="--option needs --source"):
        nnbox(*arguments)
    nnbox(*arguments, "--source", lesions)
    (record, *_) = declared(tmp_path / "ws/datasets/ms_lesions")["cases"]
    assert any("union" in repair for repair in record["repairs"])
