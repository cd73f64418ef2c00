"""The plan's models: its entries, and the cascade that two of them make."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nnunet_box.cli.train import CONFIGURATION_HELP
from nnunet_box.errors import UsageError
from nnunet_box.evaluation.selection import simplest_first
from nnunet_box.planning.plan import MODELS, Plan
from tests.training.toys import SLICES, VOLUME

COARSE = VOLUME.model_copy(update={"spacing": (1.5, 1.5, 1.5)})


def plan(*entries: str, **changes: object) -> Plan:
    known = {"2d": SLICES, "3d_fullres": VOLUME, "3d_lowres": COARSE}
    values = {
        "dataset": "toy",
        "channel_names": ("T1", "T2"),
        "labels": {0: "background", 1: "ball", 2: "rod", 3: "cube"},
        "normalisation": ("zscore", "zscore"),
        "use_nonzero_mask": False,
        "memory_gb": 12.0,
        "configurations": {name: known[name] for name in entries},
    }
    return Plan.model_validate(values | changes)


def test_a_low_resolution_brings_the_cascade_with_it() -> None:
    assert plan("3d_fullres", "2d").models == ("2d", "3d_fullres")
    assert plan("3d_fullres", "3d_lowres", "2d").models == MODELS
    assert plan("3d_lowres").models == ("3d_lowres",), "a bundle of the first stage alone"
    assert simplest_first(reversed(MODELS)) == list(MODELS)
    varied = [f"{name}__relu" for name in MODELS]
    assert simplest_first(varied[::-1]) == varied, "a cascade after its first stage, whatever the recipe"
    assert all(name in CONFIGURATION_HELP for name in MODELS)


def test_the_cascade_is_the_full_resolution_network_with_a_channel_for_each_foreground_label() -> None:
    whole = plan("2d", "3d_fullres", "3d_lowres")
    assert whole.configuration_of("3d_cascade_fullres") is whole.configurations["3d_fullres"]
    assert whole.entry_of("3d_cascade_fullres") == "3d_fullres"
    assert [whole.inputs_of(name) for name in MODELS] == [2, 2, 2, 5]
    assert [whole.previous_stage_of(name) for name in MODELS] == [None, None, None, "3d_lowres"]


def test_a_model_the_plan_has_not_is_refused() -> None:
    for ask in (Plan.configuration_of, Plan.entry_of, Plan.inputs_of, Plan.previous_stage_of):
        with pytest.raises(UsageError, match="'3d_cascade_fullres': the plan of toy has 2d, 3d_fullres"):
            ask(plan("3d_fullres", "2d"), "3d_cascade_fullres")


def test_an_entry_of_its_own_is_refused() -> None:
    with pytest.raises(ValidationError, match="no entry of its own"):
        plan(configurations={"3d_fullres": VOLUME, "3d_lowres": COARSE, "3d_cascade_fullres": VOLUME})
