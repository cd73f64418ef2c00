"""What the planner does with data that are small, huge, flat, turned or of many channels, and with other cards."""

from math import prod
from typing import Any

import pytest

from nnunet_box.errors import UsageError
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.planning.memory import feature_map_elements, memory_budget
from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.planner import low_resolution_spacing, plan_configurations, target_spacing
from nnunet_box.planning.stage import slice_axes
from nnunet_box.planning.topology import Topology

CARDS = (0.5, 1, 2, 4, 6, 8, 11, 12, 16, 24, 40, 80)


def cohort(
    spacing: tuple[float, float, float],
    size: tuple[int, int, int],
    cases: int = 30,
    channels: int = 1,
    classes: int = 2,
) -> Fingerprint:
    return Fingerprint(
        spacings=(spacing,),
        sizes=(size,),
        cases=cases,
        modalities=tuple(f"MR{index}" for index in range(channels)),
        foreground_classes=classes,
        size_after_crop_ratio=1.0,
    )


COHORTS = {
    "one case": cohort((1.0, 1.0, 1.0), (60, 70, 80), cases=1),
    "one voxel thick": cohort((1.0, 1.0, 1.0), (1, 256, 256)),
    "two voxels thick": cohort((5.0, 0.5, 0.5), (2, 400, 300)),
    "one voxel wide": cohort((3.0, 1.0, 1.0), (80, 1, 200)),
    "a single voxel": cohort((1.0, 1.0, 1.0), (1, 1, 1), cases=1),
    "in-plane anisotropic": cohort((5.0, 2.0, 0.7), (40, 120, 320)),
    "sagittal": cohort((0.6, 0.6, 4.0), (320, 300, 24)),
    "coronal": cohort((0.8, 3.0, 0.8), (512, 60, 512)),
    "far larger than the budget": cohort((0.1, 0.1, 0.1), (1500, 2000, 1800)),
    "huge slices": cohort((5.0, 0.1, 0.1), (30, 6000, 5000)),
    "four channels": cohort((1.0, 1.0, 1.0), (138, 169, 138), channels=4, classes=3),
    "forty channels, one class": cohort((1.0, 1.0, 1.0), (100, 256, 256), channels=40, classes=1),
    "smaller than a pooling": cohort((1.0, 1.0, 1.0), (6, 7, 5)),
    "needle": cohort((1.0, 1.0, 1.0), (4000, 9, 9)),
    "flat and large": cohort((4.0, 0.3, 0.3), (5, 1500, 1500)),
}


def elements(configuration: Configuration, fingerprint: Fingerprint) -> int:
    net = Topology(configuration.num_pool_per_axis, configuration.pool_kernel_sizes, configuration.conv_kernel_sizes)
    channels, classes = len(fingerprint.modalities), fingerprint.foreground_classes + 1
    return feature_map_elements(configuration.patch_size, net, channels, classes)


@pytest.mark.parametrize("memory_gb", [0.5, 4, 12, 80])
@pytest.mark.parametrize("name", COHORTS)
def test_every_plan_runs_and_fits(name: str, memory_gb: float) -> None:
    fingerprint = COHORTS[name]
    planned = plan_configurations(fingerprint, memory_gb)
    assert {"2d", "3d_fullres"} <= set(planned) <= {"2d", "3d_fullres", "3d_lowres"}
    for configuration in planned.values():
        budget = memory_budget(configuration.dimensions, memory_gb)
        used = elements(configuration, fingerprint) * configuration.batch_size
        assert used <= budget.elements * budget.batch_size
        assert configuration.batch_size >= 2
        for axis, size in enumerate(configuration.patch_size):
            assert size % 2 ** configuration.num_pool_per_axis[axis] == 0
            assert size // 2 ** configuration.num_pool_per_axis[axis] >= min(4, size)
        axes = configuration.axis_order[1:] if configuration.axis_order else (0, 1, 2)
        for axis, size, count in zip(axes, configuration.patch_size, configuration.num_pool_per_axis, strict=True):
            assert size - configuration.median_shape[axis] < 2**count, "no larger than the typical case, padded"


@pytest.mark.parametrize("name", COHORTS)
def test_more_memory_never_means_a_smaller_patch(name: str) -> None:
    plans = [plan_configurations(COHORTS[name], memory_gb) for memory_gb in CARDS]
    for less, more in zip(plans, plans[1:], strict=False):
        for configuration in ("2d", "3d_fullres"):
            small, large = less[configuration], more[configuration]
            assert all(a <= b for a, b in zip(small.patch_size, large.patch_size, strict=True))
            if small.patch_size == large.patch_size:
                assert small.batch_size <= large.batch_size
        if "3d_lowres" in more:
            assert "3d_lowres" in less
            assert more["3d_lowres"].spacing <= less["3d_lowres"].spacing


def test_memory_makes_a_difference() -> None:
    fingerprint = COHORTS["coronal"]
    patches = [prod(plan_configurations(fingerprint, memory_gb)["3d_fullres"].patch_size) for memory_gb in (6, 12, 24)]
    batches = [plan_configurations(fingerprint, memory_gb)["2d"].batch_size for memory_gb in (6, 12, 24)]
    assert patches == sorted(set(patches))
    assert batches == sorted(set(batches))


def test_a_card_too_small_for_anything_is_refused() -> None:
    with pytest.raises(UsageError, match="0.0001 GB") as refusal:
        plan_configurations(COHORTS["four channels"], 0.000_1)
    assert refusal.value.exit_code == 2


def test_slices_that_do_not_fit_twice_are_cut() -> None:
    whole = plan_configurations(cohort((5.0, 0.5, 0.5), (30, 512, 512)))["2d"]
    assert whole.patch_size == (512, 512)
    cut = plan_configurations(COHORTS["huge slices"])["2d"]
    assert cut.batch_size == 2
    assert cut.patch_size[0] < 6000 and cut.patch_size[1] < 5000
    # Cuts keep the patch's share of the two axes alike.
    assert cut.patch_size[0] / 6000 == pytest.approx(cut.patch_size[1] / 5000, rel=0.3)


def test_more_channels_take_their_share_of_the_memory() -> None:
    one, twenty = (
        plan_configurations(cohort((1.0, 1.0, 1.0), (100, 256, 256), cases=500, channels=channels))["2d"]
        for channels in (1, 20)
    )
    assert twenty.patch_size == one.patch_size
    assert twenty.batch_size < one.batch_size


def test_a_small_image_gets_a_larger_patch() -> None:
    planned = plan_configurations(cohort((1.0, 1.0, 1.0), (36, 50, 35)))
    assert planned["3d_fullres"].patch_size == (40, 56, 40)
    assert planned["2d"].patch_size == (56, 40)


def test_a_batch_sees_no_more_than_a_twentieth_of_the_voxels() -> None:
    few, many = (plan_configurations(cohort((1.0, 1.0, 1.0), (64, 64, 64), cases=cases)) for cases in (10, 60))
    # A slice is 1/640 of ten cases, so 32 slices are a twentieth of them.
    assert few["2d"].batch_size == 32
    assert few["3d_fullres"].batch_size == 2
    assert many["3d_fullres"].batch_size == 3
    assert many["2d"].batch_size == 192


def test_slices_lie_across_the_coarsest_axis() -> None:
    sagittal = plan_configurations(COHORTS["sagittal"])["2d"]
    assert sagittal.axis_order == (2, 0, 1)
    assert sagittal.patch_size == (320, 320)
    assert sagittal.spacing == (0.6, 0.6, 4.0)
    assert sagittal.median_shape == (320, 300, 24)
    assert slice_axes((1.0, 2.0, 2.0), (9, 9, 9)) == (1, 0, 2)
    assert slice_axes((1.0, 1.0, 1.0), (9, 9, 9)) == (0, 1, 2)


def test_slices_lie_across_an_axis_of_one_voxel_even_if_another_is_coarser() -> None:
    planned = plan_configurations(COHORTS["one voxel wide"])["2d"]
    assert planned.axis_order == (1, 0, 2)
    assert planned.patch_size == (80, 224)


def test_one_voxel_thick_is_planned_as_flat() -> None:
    flat = plan_configurations(COHORTS["one voxel thick"])["3d_fullres"]
    assert flat.patch_size == (1, 256, 256)
    assert flat.num_pool_per_axis == (0, 6, 6)
    assert flat.in_plane_augmentation


@pytest.mark.parametrize(("depth", "in_plane"), [(32, False), (31, False), (28, True), (20, True)])
def test_augmentation_stays_in_plane_where_patches_are_more_than_three_times_as_wide(
    depth: int, in_plane: bool
) -> None:
    planned = plan_configurations(cohort((1.0, 1.0, 1.0), (depth, 96, 96)))
    assert planned["3d_fullres"].patch_size[1:] == (96, 96)
    assert planned["3d_fullres"].in_plane_augmentation is in_plane
    assert planned["2d"].in_plane_augmentation is False


def test_the_typical_case_is_the_median_of_the_resampled_ones() -> None:
    mixed = Fingerprint(
        spacings=((2.0, 1.0, 1.0), (3.0, 1.0, 1.0), (8.0, 2.0, 1.0)),
        sizes=((90, 50, 60), (40, 52, 60), (21, 40, 66)),
        cases=3,
        modalities=("T2",),
        foreground_classes=1,
        size_after_crop_ratio=1.0,
    )
    assert target_spacing(mixed) == (3.0, 1.0, 1.0)
    # At 3 x 1 x 1 mm the cases have 60, 40, 56 slices, 50, 52, 80 rows and 60, 60, 66 columns.
    assert plan_configurations(mixed)["3d_fullres"].median_shape == (56, 52, 60)


def test_an_even_number_of_cases_has_the_mean_of_the_middle_two() -> None:
    values: dict[str, Any] = COHORTS["one case"].model_dump() | {"cases": 2, "spacings": ((1, 1, 1), (2, 1, 1))}
    assert target_spacing(Fingerprint.model_validate(values)) == (1.5, 1.0, 1.0)


def test_low_resolution_evens_out_anisotropy_first() -> None:
    spacing = low_resolution_spacing((5.0, 1.0, 1.0), (100.0, 400.0, 400.0), 100 * 300 * 300)
    assert spacing[0] == 5.0
    assert spacing[1] == spacing[2] == pytest.approx(400 / 300, rel=0.011)
    assert spacing[1] >= 400 / 300
    further = low_resolution_spacing((5.0, 1.0, 1.0), (100.0, 400.0, 400.0), 100 * 100 * 100)
    assert further[0] > 5.0
    assert further[0] / further[1] == pytest.approx(2, rel=0.011)
    assert low_resolution_spacing((1.0, 1.0, 1.0), (10.0, 10.0, 10.0), 1000) == (1.0, 1.0, 1.0)


def test_a_cascade_needs_four_typical_patches_of_voxels() -> None:
    edge = (4 * 64, 192, 160)
    at_threshold = plan_configurations(cohort((1.0, 1.0, 1.0), edge))
    assert "3d_lowres" not in at_threshold, "no resolution is lost, so the low one is not worth it"
    assert "3d_lowres" not in plan_configurations(cohort((1.0, 1.0, 1.0), (368, 192, 160)))
    large = plan_configurations(cohort((1.0, 1.0, 1.0), (400, 192, 160)))
    assert prod(large["3d_lowres"].median_shape) <= 1.01 * prod(edge)
    assert 1.5 * prod(large["3d_lowres"].median_shape) < prod(large["3d_fullres"].median_shape)


def test_planning_twice_gives_the_same() -> None:
    assert plan_configurations(COHORTS["coronal"]) == plan_configurations(COHORTS["coronal"])
