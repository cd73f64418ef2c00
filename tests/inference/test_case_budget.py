"""What of a bundle fits into a time: tried in the documented order, chosen by what was measured, written down."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from nnunet_box.bundle import Bundle, BundleMember, InferencePart, WeightsFile, load_bundle
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.files import write_json
from nnunet_box.inference.budget import MARGIN, START_SECONDS, Choice, OverBudget, case_timer, choices, cut, fit_budget
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.planning.planner import make_plan

FOLDS = 5
LIMIT_OF_60 = 60 * (1 - MARGIN) - START_SECONDS


def weights(name: str, folds: int = FOLDS) -> tuple[WeightsFile, ...]:
    return tuple(
        WeightsFile(fold=fold, file=f"weights/{name}/fold_{fold}.safetensors", sha256="0" * 64) for fold in range(folds)
    )


@pytest.fixture(scope="module")
def pair() -> Bundle:
    """A pair of five folds each."""
    fingerprint = Fingerprint(
        spacings=((1.0, 1.0, 1.0),),
        sizes=((20, 20, 20),),
        cases=10,
        modalities=("MRI",),
        foreground_classes=2,
        size_after_crop_ratio=1.0,
    )
    plan = make_plan(fingerprint, "small", {0: "background", 1: "a", 2: "b"})
    members = tuple(BundleMember(configuration=name, weights=weights(name)) for name in ("3d_fullres", "2d"))
    return Bundle(dataset="small", challenge=None, plan=plan, members=members, postprocessing=Postprocessing())


def timed(fixed: float, network: float, tried: list[Bundle]):
    """A machine on which every network takes ``network`` seconds, 8 times that with mirroring; without running any."""

    def predict(bundle, load_network):
        tried.append(bundle)
        networks = sum(len(stage.weights) for stage in bundle.stages)
        return fixed + networks * network * (8 if bundle.mirroring else 1)

    return predict


def fitted(bundle: Bundle, fixed: float, network: float, budget: float = 60) -> tuple[Bundle, list[Bundle]]:
    tried: list[Bundle] = []
    chosen = fit_budget(bundle, lambda member, file: None, timed(fixed, network, tried), budget, "case", (20, 20, 20))
    return chosen, tried


def test_the_order_is_mirroring_then_folds_then_members(pair):
    order = list(choices(pair))
    assert order[0] == Choice(True, 5, 2)
    assert order[1:6] == [Choice(False, folds, 2) for folds in (5, 4, 3, 2, 1)]
    assert order[6:] == [Choice(False, 1, 1)]
    assert list(choices(pair.model_copy(update={"inference": InferencePart(mirroring=False)})))[0] == order[1]


@pytest.mark.parametrize(
    ("network", "mirroring", "folds", "members"),
    [
        (0.5, True, 5, 2),  # 80 networks' worth: 40 s
        (1.0, False, 5, 2),  # 80 s with mirroring, 10 without
        (5.0, False, 4, 2),  # 4 folds of 2 members: 40 s
        (20.0, False, 1, 2),
        (40.0, False, 1, 1),
    ],
)
def test_the_first_choice_that_fits_is_taken(pair, network, mirroring, folds, members):
    chosen, _ = fitted(pair, 1.0, network)
    assert chosen.mirroring is mirroring
    assert [len(member.weights) for member in chosen.members] == [folds] * members
    assert [entry.fold for entry in chosen.members[0].weights] == list(range(folds))
    record = chosen.inference.budget
    assert (record.budget_seconds, record.margin, record.start_seconds) == (60, MARGIN, START_SECONDS)
    assert (record.case, record.shape) == ("case", (20, 20, 20))
    taken = record.trials[-1] if (folds, members) != (1, 2) else record.trials[0]
    assert taken.measured
    assert taken.seconds <= LIMIT_OF_60
    assert (taken.mirroring, taken.folds) == (mirroring, folds)


def test_what_was_chosen_was_measured_as_it_is_shipped(pair):
    chosen, tried = fitted(pair, 1.0, 5.0)
    assert tried[-1].members == chosen.members
    assert tried[-1].mirroring == chosen.mirroring
    assert tried[0] == cut(pair, Choice(False, 1, 2))


def test_where_not_even_one_network_fits_the_seconds_needed_are_told(pair):
    with pytest.raises(OverBudget, match=r"takes 51\.0 s here, so a case needs a budget of 68 s") as refusal:
        fitted(pair, 1.0, 50.0)
    assert refusal.value.exit_code == 1
    assert pytest.approx(67.5) == (51 + START_SECONDS) / (1 - MARGIN)


def test_a_bundle_that_fits_as_it_is_keeps_everything(pair):
    chosen, _ = fitted(pair, 0.1, 0.01)
    assert chosen.members == pair.members
    assert chosen.inference.folds is None
    assert chosen.mirroring


def test_hopeless_choices_are_estimated_and_not_run(pair, tmp_path):
    """With networks that take time, the estimate comes from them."""

    def load(member, file):
        def run(batch):
            time.sleep(0.01)
            return np.zeros((len(batch), 3, *batch.shape[2:]), dtype=np.float32)

        return run

    image = np.random.default_rng(0).random((1, 20, 20, 20), dtype=np.float32)
    single = pair.model_copy(update={"members": (pair.members[0],)})
    timer = case_timer(image, (1.0, 1.0, 1.0), tmp_path)
    alone = timer(cut(single, Choice(False, 1, 1)), load)
    budget = (alone * 1.5 + START_SECONDS) / (1 - MARGIN)
    chosen = fit_budget(single, load, timer, budget, "case", (20, 20, 20))
    trials = chosen.inference.budget.trials
    assert [trial.measured for trial in trials if trial.mirroring] == [False]
    assert len(chosen.members[0].weights) < FOLDS
    assert not chosen.mirroring


def test_a_cut_bundle_has_no_weights_it_does_not_use(pair):
    shipped = cut(pair, Choice(False, 2, 1))
    assert [entry.file for entry in shipped.weights_files] == [
        f"weights/3d_fullres/fold_{fold}.safetensors" for fold in (0, 1)
    ]
    assert len(shipped.ensemble(Path("bundle"))[0].weights) == 2


def test_a_cascade_is_cut_in_both_stages(pair):
    first = BundleMember(configuration="3d_lowres", weights=weights("3d_lowres"))
    cascade = BundleMember(
        configuration="3d_cascade_fullres", weights=weights("3d_cascade_fullres"), previous_stage=first
    )
    shipped = cut(pair.model_copy(update={"members": (cascade,)}), Choice(False, 2, 1))
    assert [len(stage.weights) for stage in shipped.stages] == [2, 2]


def test_what_was_decided_is_in_the_file_and_absent_means_all(pair, tmp_path):
    chosen, _ = fitted(pair, 1.0, 5.0)
    for entry in chosen.weights_files:
        (tmp_path / entry.file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / entry.file).touch()
    write_json(tmp_path / "bundle.json", chosen.model_dump(mode="json"))
    assert load_bundle(tmp_path) == chosen
    assert not load_bundle(tmp_path).mirroring
    assert "inference" not in json.loads(json.dumps(pair.model_dump(mode="json")))
    assert Bundle.model_validate(pair.model_dump(mode="json")) == pair
    assert pair.mirroring
