"""The memory proxy, worked out by hand, and how it follows the card."""

import math

import pytest

from nnunet_box.errors import UsageError
from nnunet_box.planning.memory import feature_map_elements, memory_budget, typical_patch_voxels
from nnunet_box.planning.plan import stage_features
from nnunet_box.planning.topology import pool_by_spacing, pool_late

ISOTROPIC = (1.0, 1.0, 1.0)


def test_elements_of_one_pooling() -> None:
    by_hand = 5 * 8**3 * 30 + (1 + 2) * 8**3 + 2 * 4**3 * 60
    assert feature_map_elements((8, 8, 8), pool_late((8, 8, 8), ISOTROPIC), channels=1, classes=2) == by_hand


def test_elements_of_two_poolings_count_five_maps_but_in_the_bottleneck() -> None:
    by_hand = 5 * 16**3 * 30 + (4 + 3) * 16**3 + 5 * 8**3 * 60 + 2 * 4**3 * 120
    assert feature_map_elements((16, 16, 16), pool_late((16, 16, 16), ISOTROPIC), channels=4, classes=3) == by_hand


def test_elements_of_an_axis_that_is_not_pooled() -> None:
    by_hand = 5 * (4 * 8 * 8) * 30 + 3 * (4 * 8 * 8) + 2 * (4 * 4 * 4) * 60
    assert feature_map_elements((4, 8, 8), pool_late((4, 8, 8), ISOTROPIC), channels=1, classes=2) == by_hand


def test_elements_without_pooling() -> None:
    assert feature_map_elements((4, 4), pool_by_spacing((4, 4), (1.0, 1.0)), channels=1, classes=2) == 16 * (5 * 30 + 3)


def test_features_double_up_to_their_cap() -> None:
    assert stage_features(6, 3) == (30, 60, 120, 240, 320, 320)
    assert stage_features(6, 2) == (30, 60, 120, 240, 480, 480)


def test_the_two_references_are_those_of_a_12_gb_card() -> None:
    assert (memory_budget(3, 12).elements, memory_budget(3, 12).batch_size) == (520_000_000, 2)
    assert (memory_budget(2, 12).elements, memory_budget(2, 12).batch_size) == (19_739_648, 50)
    assert typical_patch_voxels(12) == 64 * 192 * 160


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_budget_is_proportional_to_the_memory(dimensions: int) -> None:
    at_12 = memory_budget(dimensions, 12)
    for memory_gb in (1, 6, 11, 24, 80):
        budget = memory_budget(dimensions, memory_gb)
        assert budget.elements == pytest.approx(at_12.elements * memory_gb / 12)
        assert budget.batch_size == at_12.batch_size
        assert typical_patch_voxels(memory_gb) == pytest.approx(typical_patch_voxels(12) * memory_gb / 12)


def test_a_batch_is_rounded_down() -> None:
    budget = memory_budget(3, 12)
    assert budget.batch_that_fits(520_000_000) == 2
    assert budget.batch_that_fits(520_000_001) == 1
    assert budget.batch_that_fits(346_666_666) == 3
    assert budget.batch_that_fits(346_666_667) == 2


@pytest.mark.parametrize("memory_gb", [0, -12, math.nan, math.inf])
def test_memory_has_to_be_a_positive_number(memory_gb: float) -> None:
    with pytest.raises(UsageError, match="positive number of gigabytes"):
        memory_budget(3, memory_gb)
