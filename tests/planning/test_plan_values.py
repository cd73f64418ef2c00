"""A plan: what goes into it, what it refuses, and that a file of it reads back the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nnunet_box.errors import InvalidData
from nnunet_box.files import write_json
from nnunet_box.planning.fingerprint import ChannelIntensities, Fingerprint
from nnunet_box.planning.plan import Configuration, Plan, load_plan
from nnunet_box.planning.planner import make_plan

LABELS = {0: "background", 1: "liver", 2: "tumour"}
ABDOMEN = ChannelIntensities(
    mean=99.5, sd=37.0, percentile_00_5=-15.0, percentile_99_5=197.0, median=101.0, minimum=-983.0, maximum=5420.0
)


def fingerprint(**changes: Any) -> Fingerprint:
    values: dict[str, Any] = {
        "spacings": ((5.0, 1.0, 1.0),),
        "sizes": ((30, 200, 200),),
        "cases": 20,
        "modalities": ("CT",),
        "foreground_classes": 2,
        "size_after_crop_ratio": 1.0,
        "intensities": (ABDOMEN,),
    }
    return Fingerprint.model_validate(values | changes)


def test_a_plan_reads_back_the_same(tmp_path: Path) -> None:
    plan = make_plan(fingerprint(), "livers", LABELS, memory_gb=11)
    write_json(tmp_path / "plan.json", plan.model_dump(mode="json", exclude_none=True))
    assert load_plan(tmp_path / "plan.json") == plan
    assert (plan.dataset, plan.labels, plan.memory_gb) == ("livers", LABELS, 11)
    assert plan.channel_names == ("CT",)
    assert plan.intensities == (ABDOMEN,)
    assert json.loads((tmp_path / "plan.json").read_text())["schema_version"] == 1


def test_the_memory_reaches_the_configurations() -> None:
    small, large = (make_plan(fingerprint(), "livers", LABELS, memory_gb) for memory_gb in (4, 12))
    assert small.configurations["2d"].batch_size < large.configurations["2d"].batch_size


def test_axis_order_is_written_in_2d_only() -> None:
    plan = make_plan(fingerprint(), "livers", LABELS)
    assert plan.configurations["3d_fullres"].axis_order is None
    for written in (plan.model_dump(mode="json"), plan.model_dump(mode="json", exclude_none=True)):
        assert written["configurations"]["2d"]["axis_order"] == [0, 1, 2]
        assert "axis_order" not in written["configurations"]["3d_fullres"]


@pytest.mark.parametrize(
    ("modalities", "schemes"),
    [
        (("CT",), ("ct",)),
        (("ct",), ("ct",)),
        (("Ct", "PET"), ("ct", "zscore")),
        (("T2", "ADC"), ("zscore", "zscore")),
        (("CTA",), ("zscore",)),
    ],
)
def test_only_ct_is_normalised_as_ct(modalities: tuple[str, ...], schemes: tuple[str, ...]) -> None:
    data = fingerprint(modalities=modalities, intensities=(ABDOMEN,) * len(modalities))
    assert make_plan(data, "livers", LABELS).normalisation == schemes


@pytest.mark.parametrize(("ratio", "masked"), [(0.3, True), (0.7499, True), (0.75, False), (1.0, False)])
def test_the_nonzero_mask_is_used_where_cropping_removes_more_than_a_quarter(ratio: float, masked: bool) -> None:
    assert make_plan(fingerprint(size_after_crop_ratio=ratio), "livers", LABELS).use_nonzero_mask is masked


def test_ct_without_intensities_is_refused() -> None:
    with pytest.raises(InvalidData, match="foreground intensities"):
        make_plan(fingerprint(intensities=None), "livers", LABELS)


def test_other_modalities_do_without_intensities() -> None:
    assert make_plan(fingerprint(modalities=("T1",), intensities=None), "livers", LABELS).intensities is None


def test_labels_of_another_number_are_refused() -> None:
    with pytest.raises(InvalidData, match="1 foreground classes"):
        make_plan(fingerprint(), "livers", {0: "background", 1: "liver"})


def configuration(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "patch_size": (8, 32, 32),
        "batch_size": 2,
        "num_pool_per_axis": (1, 2, 2),
        "pool_kernel_sizes": ((1, 2, 2), (2, 2, 2)),
        "conv_kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "spacing": (5.0, 1.0, 1.0),
        "median_shape": (8, 30, 30),
        "in_plane_augmentation": True,
    }
    return values | changes


def test_features_follow_from_stages_and_dimensions() -> None:
    volume = Configuration.model_validate(configuration())
    assert (volume.dimensions, volume.features) == (3, (30, 60, 120))
    slices = make_plan(fingerprint(), "livers", LABELS).configurations["2d"]
    assert (slices.dimensions, slices.features) == (2, (30, 60, 120, 240, 480, 480))


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 1},
        {"patch_size": (8, 32, 30)},
        {"patch_size": (9, 32, 32)},
        {"patch_size": (8,)},
        {"num_pool_per_axis": (2, 2, 2)},
        {"num_pool_per_axis": (2, 2)},
        {"pool_kernel_sizes": ((2, 2), (2, 2))},
        {"conv_kernel_sizes": ((3, 3, 3), (3, 3, 3))},
        {"axis_order": (0, 1, 2)},
        {"spacing": (5.0, 0.0, 1.0)},
        {"colour": "green"},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Configuration.model_validate(configuration(**change))


@pytest.mark.parametrize("order", [None, (0, 1, 1)])
def test_a_2d_configuration_needs_an_axis_order(order: tuple[int, int, int] | None) -> None:
    values = make_plan(fingerprint(), "livers", LABELS).configurations["2d"].model_dump() | {"axis_order": order}
    with pytest.raises(ValidationError, match="axis_order"):
        Configuration.model_validate(values)


@pytest.mark.parametrize(
    ("change", "at_fault"),
    [
        ({"schema_version": 7}, "version 7"),
        ({"normalisation": ["ct", "ct"]}, "2 entries for 1 channels"),
        ({"normalisation": ["window"]}, "normalisation.0"),
        ({"intensities": None}, "intensities"),
        ({"intensities": [ABDOMEN.model_dump()] * 2}, "2 entries for 1 channels"),
        ({"labels": {"0": "background", "2": "tumour"}}, "without gaps"),
        ({"labels": {"0": "background"}}, "at least one"),
        ({"memory_gb": 0}, "memory_gb"),
        ({"configurations": {"2d": configuration(batch_size=1)}}, "configurations.2d.batch_size"),
    ],
)
def test_a_plan_file_that_contradicts_itself_is_refused(change: dict[str, Any], at_fault: str, tmp_path: Path) -> None:
    values = make_plan(fingerprint(), "livers", LABELS).model_dump(mode="json") | change
    write_json(tmp_path / "plan.json", values)
    with pytest.raises(InvalidData) as refusal:
        load_plan(tmp_path / "plan.json")
    assert at_fault in refusal.value.found
    assert refusal.value.file == tmp_path / "plan.json"


def test_plans_are_values() -> None:
    plan = make_plan(fingerprint(), "livers", LABELS)
    with pytest.raises(ValidationError):
        plan.configurations["2d"].batch_size = 3  # type: ignore[misc]
    assert isinstance(plan, Plan)
