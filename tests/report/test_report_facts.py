"""What stands in a report: what is on disk, no more and no less, at every stage of the work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.summary import read_summary
from nnunet_box.report import tables
from nnunet_box.report.gather import gather, shown_cases
from nnunet_box.report.page import chart_data
from nnunet_box.submission.record import write_image_record
from nnunet_box.training.run_log import read_log
from nnunet_box.workspace import Workspace
from tests.report.finished_workspace import EPOCHS, MODELS, planned_workspace


@pytest.fixture
def own(finished, tmp_path):
    """A copy that may be changed."""
    workspace, dataset = finished
    shutil.copytree(workspace.root, tmp_path / "nnbox")
    return Workspace(tmp_path / "nnbox", "acdc"), dataset


def test_every_case_has_the_dice_of_its_summary(finished, facts):
    workspace, dataset = finished
    names = [scored.name for scored in facts.scores]
    assert names[:2] == list(MODELS) and set(names) <= {*MODELS, "2d+3d_fullres"}
    for scored in facts.scores[:2]:
        assert set(scored.cases) == {case.id for case in dataset.cases}
        summary = read_summary(workspace.models / scored.name / "summary.json")
        for label, mean in scored.mean_dice(dataset.foreground_labels).items():
            assert mean == pytest.approx(summary["mean"][str(label)]["Dice"])
        assert all(file.is_file() for file in scored.predictions.values())


def test_the_chosen_is_the_selections(facts):
    assert facts.chosen.name == facts.selection.best.name
    best = max(facts.selection.candidates, key=lambda one: one.mean_foreground_dice)
    rows = tables.selection_facts(facts)["candidates"]
    assert rows[0]["name"] == best.name and rows[0]["chosen"] and not any(row["chosen"] for row in rows[1:])
    assert f"{best.mean_foreground_dice:.4f}" in tables.verdict(facts)


def test_worst_median_and_best_are_just_that_and_each_once(facts):
    shown = shown_cases(facts)
    ranked = [row["id"] for row in tables.case_rows(facts, facts.chosen)]
    assert list(shown) == ["worst", "median", "best"]
    assert shown["worst"] == ranked[:6] and shown["best"] == ranked[::-1][:3]
    everything = [case for cases in shown.values() for case in cases]
    assert len(set(everything)) == len(everything) == 12
    assert all(abs(ranked.index(case) - len(ranked) // 2) <= 2 for case in shown["median"])


def test_runs_tell_what_training_left(facts):
    rows = tables.run_rows(facts)
    assert len(rows) == 5 * len(MODELS)
    assert {row["epochs"] for row in rows} == {EPOCHS} and {row["seed"] for row in rows} == {12345}
    assert rows[0]["time"] == "20:00" and rows[0]["state"] == "done"
    assert len(chart_data(facts)["curves"]["2d"]) == 5


def test_a_line_that_is_being_written_does_not_count(tmp_path):
    line = {"epoch": 1, "loss": 0.5, "validation_dice": float("nan"), "rate": 1e-3, "seconds": 2.0}
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(line) + "\n" + '{"epoch": 2, "loss"')
    (epoch,) = read_log(log)
    assert (epoch.epoch, epoch.loss, epoch.validation_dice) == (1, 0.5, None)
    assert read_log(tmp_path / "none") == []


def test_before_training_there_is_the_data_set_and_the_plan(tmp_path):
    facts = gather(*planned_workspace(tmp_path, patients=5), processes=1)
    assert facts.chosen is None and shown_cases(facts) == {} and facts.plan is not None
    assert "nnbox train-all acdc" in tables.verdict(facts)
    assert tables.selection_facts(facts) is None and tables.bundle_facts(facts, {}) is None


def test_with_some_folds_the_report_is_of_those(own):
    workspace, dataset = own
    workspace.selection.unlink()
    for fold in range(1, 5):
        shutil.rmtree(workspace.fold("3d_fullres", fold))
    facts = gather(workspace, dataset, processes=1)
    by_name = {scored.name: scored for scored in facts.scores}
    assert set(by_name["3d_fullres"].cases) == set(facts.folds[0].val)
    assert len(by_name["2d"].cases) == len(dataset.cases)
    assert facts.chosen.name in MODELS and "nothing selected yet" in tables.verdict(facts)
    assert [row["name"] for row in tables.run_rows(facts)][-1] == "3d_fullres, fold 0"


def test_a_damaged_summary_is_named(own):
    workspace, dataset = own
    file = workspace.fold("2d", 1) / "validation" / "summary.json"
    summary = json.loads(file.read_text())
    del summary["metric_per_case"][0]["metrics"]
    file.write_text(json.dumps(summary))
    with pytest.raises(InvalidData) as caught:
        gather(workspace, dataset, processes=1)
    assert caught.value.file == file


def test_a_summary_leads_to_no_file_outside_the_workspace(own):
    workspace, dataset = own
    file = workspace.fold("2d", 1) / "validation" / "summary.json"
    summary = json.loads(file.read_text())
    entry = summary["metric_per_case"][0]
    case = entry["prediction_file"].rsplit("/", 1)[1].removesuffix(".nii.gz")
    entry["prediction_file"] = f"/etc/{case}.nii.gz"
    file.write_text(json.dumps(summary))
    scored = next(one for one in gather(workspace, dataset, processes=1).scores if one.name == "2d")
    assert scored.predictions[case] == workspace.fold("2d", 1) / "validation" / f"{case}.nii.gz"


def test_images_built_of_the_data_set_are_told(own):
    workspace, dataset = own
    image = {"tag": "team/acdc-entry:2", "id": "sha256:ab", "size_bytes": 310_000_000, "labels": {"a.runtime": "cpu"}}
    write_image_record(workspace.root / "submissions", "acdc", image)
    write_image_record(workspace.root / "submissions", "lits", image | {"tag": "lits:1"})
    (workspace.root / "submissions" / "broken.image.json").write_text("{")
    (record,) = gather(workspace, dataset, processes=1).images
    told = tables.image_facts(record)
    assert told["tag"] == "team/acdc-entry:2" and ("Size", "310 MB") in told["facts"]
    assert ("a.runtime", "cpu") in told["facts"]


def test_published_scores_stand_beside_ours_where_both_are_a_dice_of_the_same(facts):
    rows = tables.published_rows(facts)
    means = facts.chosen.mean_dice(facts.dataset.foreground_labels)
    assert rows and all(row["ours"] == pytest.approx(sum(means.values()) / 3) for row in rows)
    score = replace(facts.published[0], metric="score, 100 at best", value=89.08)
    (row,) = tables.published_rows(replace(facts, published=(score,)))
    assert row["theirs"] == "89.08" and row["ours"] is None


def test_versions_seeds_and_times_are_told(facts):
    told = dict(tables.provenance(facts, datetime(2026, 1, 2, 3, 4, tzinfo=UTC)))
    assert told["Page made"] == "2026-01-02 03:04 UTC" and told["Seeds"] == "12345"
    assert told["Training, all networks"] == "3:20:00"
