from __future__ import annotations

import json
import shutil

import blosc2
import numpy as np
import pytest

from nnunet_box.dataset.cases import SourceCase
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.evaluation import crossvalidation
from nnunet_box.evaluation.crossvalidation import ensemble_labels
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.evaluation.selection import best_candidate, load_selection, select, simplest_first
from nnunet_box.evaluation.summary import read_label_map


def softmax(labels, sure=0.9):
    """(K, Z, Y, X) with ``sure`` for the given label and the rest shared."""
    values = np.full((3, *labels.shape), (1 - sure) / 2)
    np.put_along_axis(values, labels[None].astype(np.intp), sure, axis=0)
    return values


def hesitant(truth, where):
    """Sure and right, but for one voxel where background is a little likelier than the truth."""
    values = softmax(truth)
    values[:, *where] = 0.0
    values[0, *where], values[int(truth[where]), *where] = 0.55, 0.45
    return values


def run(toy, *configurations):
    return select(toy.cases, toy.models, configurations, toy.folds, toy.labels)


def test_the_pair_wins_where_each_makes_up_for_the_other(toy):
    toy.add("2d", lambda case: hesitant(toy.truth[case], (1, 1, 1)))
    toy.add("3d_fullres", lambda case: hesitant(toy.truth[case], (1, 3, 4)))
    selection = run(toy, "3d_fullres", "2d")
    scores = {candidate.name: candidate for candidate in selection.candidates}
    assert list(scores) == ["2d", "3d_fullres", "2d+3d_fullres"]
    assert scores["2d"].dice == {1: pytest.approx(6 / 7), 2: 1.0}
    assert scores["3d_fullres"].dice == {1: 1.0, 2: pytest.approx(6 / 7)}
    assert scores["2d"].mean_foreground_dice == pytest.approx(13 / 14)
    assert scores["2d+3d_fullres"].mean_foreground_dice == 1.0
    assert selection.chosen == ("2d", "3d_fullres")
    assert selection.best is not None and selection.best.name == "2d+3d_fullres"
    folder = toy.models / "ensembles" / "2d+3d_fullres"
    for case, truth in toy.truth.items():
        assert np.array_equal(read_label_map(folder / "validation" / f"{case}.nii.gz")[0], truth)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == 1.0
    assert summary["metric_per_case"][0]["prediction_file"] == str(folder / "validation" / "a.nii.gz")


def test_a_tie_goes_to_the_simpler(toy):
    toy.add("2d", lambda case: softmax(toy.truth[case]))
    toy.add("3d_fullres", lambda case: softmax(toy.truth[case]))
    selection = run(toy, "3d_fullres", "2d")
    assert {candidate.mean_foreground_dice for candidate in selection.candidates} == {1.0}
    assert selection.chosen == ("2d",)
    assert not (toy.models / "ensembles").exists()


def test_a_single_configuration_beats_a_pair_that_is_as_good(toy):
    toy.add("2d", lambda case: hesitant(toy.truth[case], (1, 1, 1)))
    toy.add("3d_fullres", lambda case: softmax(toy.truth[case]))
    assert run(toy, "2d", "3d_fullres").chosen == ("3d_fullres",)


def test_every_pair_of_three_is_a_candidate_simplest_first(toy):
    for name in ("3d_fullres", "3d_lowres", "2d"):
        toy.add(name, lambda case: softmax(toy.truth[case]))
    names = [candidate.name for candidate in run(toy, "3d_fullres", "3d_lowres", "2d").candidates]
    assert names == ["2d", "3d_lowres", "3d_fullres", "2d+3d_lowres", "2d+3d_fullres", "3d_lowres+3d_fullres"]
    assert simplest_first(["zeta", "3d_cascade_fullres", "2d", "2d"]) == ["2d", "3d_cascade_fullres", "zeta"]


def test_files_that_selection_leaves(toy):
    toy.add("2d", lambda case: hesitant(toy.truth[case], (1, 1, 1)))
    toy.add("3d_fullres", lambda case: softmax(toy.truth[case]))
    selection = run(toy, "2d", "3d_fullres")
    summary = json.loads((toy.models / "2d" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 4, "all folds together"
    assert summary["mean"]["1"]["Dice"] == pytest.approx(6 / 7)
    assert load_selection(toy.models / "selection.json") == selection
    written = json.loads((toy.models / "selection.json").read_text())
    assert written["schema_version"] == 1
    assert written["dataset"] == "toy" and written["folds"] == [0, 1] and written["cases"] == 4
    assert written["labels"] == {"0": "background", "1": "left", "2": "right"}
    assert [trial["labels"] for trial in written["postprocessing_decision"]["trials"]] == [[1, 2], [1], [2]]
    assert selection.postprocessing == Postprocessing()


def test_postprocessing_is_decided_on_the_chosen_pair(toy):
    def speck(case):
        values = softmax(toy.truth[case])
        values[:, 0, 3, 5] = 0.1, 0.9, 0.0  # apart from its bar, with both
        return values

    def weak(base, where):
        base[:, *where] = 0.0
        base[0, *where], base[1, *where] = 0.55, 0.45
        return base

    toy.add("2d", lambda case: weak(speck(case), (1, 1, 1)))
    toy.add("3d_fullres", lambda case: weak(speck(case), (1, 1, 4)))
    selection = run(toy, "2d", "3d_fullres")
    assert selection.chosen == ("2d", "3d_fullres")
    trials = selection.postprocessing_decision.trials
    assert trials[0].dice_before[1] == pytest.approx(8 / 9)
    # The two bars are apart, so together one of them would be lost; label by itself only the speck goes.
    assert not trials[0].accepted and trials[1].accepted
    assert selection.postprocessing.steps == ((1,),)
    assert trials[1].dice_after[1] == 1.0


def test_one_fold_alone_is_enough_if_it_is_all_that_is_asked_for(toy):
    toy.add("2d", lambda case: softmax(toy.truth[case]))
    shutil.rmtree(toy.models / "2d" / "fold_1")
    selection = select(toy.cases, toy.models, ["2d"], {0: toy.folds[0]}, toy.labels)
    assert selection.folds == (0,) and selection.cases == 2


@pytest.mark.parametrize("missing", ["fold_1", "fold_1/validation/d.nii.gz", "fold_1/validation/d.probabilities.b2nd"])
def test_a_missing_fold_names_the_file_and_the_command_before_anything_is_computed(toy, missing):
    toy.add("2d", lambda case: softmax(toy.truth[case]))
    toy.add("3d_fullres", lambda case: softmax(toy.truth[case]))
    gone = toy.models / "3d_fullres" / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(InvalidData) as caught:
        run(toy, "2d", "3d_fullres")
    assert str(gone) in str(caught.value)
    assert "nnbox train toy --configuration 3d_fullres --fold 1" in str(caught.value)
    assert not list(toy.models.rglob("summary.json"))


def test_probabilities_on_another_grid_than_the_reference_are_refused(toy):
    for name in ("2d", "3d_fullres"):
        toy.add(name, lambda case: softmax(toy.truth[case]))
        file = toy.validation(name, 0) / "b.probabilities.b2nd"
        blosc2.asarray(np.zeros((3, 3, 4, 7), dtype=np.float16), urlpath=str(file), mode="w")
    with pytest.raises(InvalidData, match=r"shape \(3, 4, 6\).*found \(3, 4, 7\)") as caught:
        run(toy, "2d", "3d_fullres")
    assert caught.value.file.name == "b.probabilities.b2nd"


def test_one_configuration_needs_no_probabilities(toy):
    toy.add("2d", lambda case: softmax(toy.truth[case]), probabilities=False)
    assert run(toy, "2d").chosen == ("2d",)


def test_nothing_to_select_and_a_case_without_a_label(toy):
    with pytest.raises(UsageError):
        run(toy)
    toy.add("2d", lambda case: softmax(toy.truth[case]))
    unlabelled = [SourceCase(case.id, case.group, case.channels, None) for case in toy.cases]
    with pytest.raises(InvalidData, match="with a label"):
        select(unlabelled, toy.models, ["2d"], toy.folds, toy.labels)


def test_background_everywhere_is_no_candidate():
    from nnunet_box.evaluation.selection import Candidate

    with pytest.raises(InvalidData, match="only background"):
        best_candidate([Candidate(configurations=("2d",), dice={1: None}, mean_foreground_dice=None)])
    zero = Candidate(configurations=("3d_fullres",), dice={1: 0.0}, mean_foreground_dice=0.0)
    nothing = Candidate(configurations=("2d",), dice={1: None}, mean_foreground_dice=None)
    assert best_candidate([nothing, zero]) is zero


def test_a_selection_of_another_version_is_refused(toy):
    toy.add("2d", lambda case: softmax(toy.truth[case]))
    run(toy, "2d")
    file = toy.models / "selection.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(InvalidData, match="schema version 1"):
        load_selection(file)
    file.write_text('{"schema_version": 1}')
    with pytest.raises(InvalidData, match="nnbox select"):
        load_selection(file)


@pytest.fixture
def random_softmax(tmp_path):
    random = np.random.default_rng(11)
    arrays, files = [], []
    for index in range(2):
        array = random.dirichlet((1.0, 1.0, 1.0, 1.0), (9, 6, 5)).transpose(3, 0, 1, 2).astype(np.float16)
        file = tmp_path / f"{index}.b2nd"
        blosc2.asarray(array, urlpath=str(file), mode="w", chunks=(4, 2, 6, 5))
        arrays.append(array.astype(np.float32))
        files.append(file)
    return arrays, files


@pytest.mark.parametrize("slab_bytes", [1, 2 * 4 * 30 * 2 * 3, 1 << 26])
def test_slab_by_slab_equals_the_mean_of_whole_arrays(random_softmax, slab_bytes):
    arrays, files = random_softmax
    expected = np.mean(arrays, axis=0).argmax(axis=0)
    assert np.array_equal(ensemble_labels(files, 4, slab_bytes), expected)


def test_no_more_than_a_slab_is_read_at_once(random_softmax, monkeypatch):
    _, files = random_softmax
    opened, read = crossvalidation.open_probabilities, []

    class Watched:
        def __init__(self, array):
            self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, array.chunks

        def __getitem__(self, key):
            part = self.array[key]
            read.append(part.shape[1])
            return part

    monkeypatch.setattr(crossvalidation, "open_probabilities", lambda *arguments: Watched(opened(*arguments)))
    slice_bytes = 2 * 4 * 30 * 2
    ensemble_labels(files, 4, 5 * slice_bytes)
    assert max(read) == 4, "five slices would fit; four are two whole chunks"
    assert sum(read) == 2 * 9


def test_a_tie_between_labels_goes_to_the_lower(tmp_path):
    even = np.full((3, 1, 1, 2), 0.25, dtype=np.float16)
    even[1:] = 0.375
    blosc2.asarray(even, urlpath=str(tmp_path / "even.b2nd"), mode="w")
    assert ensemble_labels([tmp_path / "even.b2nd"] * 2, 3).tolist() == [[[1, 1]]]


def test_probabilities_that_do_not_fit_are_refused(random_softmax, tmp_path):
    _, files = random_softmax
    with pytest.raises(InvalidData, match="3 classes"):
        ensemble_labels(files, 3)
    other = tmp_path / "other.b2nd"
    blosc2.asarray(np.zeros((4, 9, 6, 4), dtype=np.float16), urlpath=str(other), mode="w")
    with pytest.raises(InvalidData, match=r"shape \(9, 6, 5\)"):
        ensemble_labels([files[0], other], 4)
    broken = tmp_path / "broken.b2nd"
    broken.write_bytes(files[0].read_bytes()[:20])
    with pytest.raises(InvalidData, match="does not open"):
        ensemble_labels([broken], 4)
