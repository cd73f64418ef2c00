"""Crop, intensities, normalisation, the pipeline and the case store."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.inference.export import labels_on_source
from nnunet_box.parallel import map_cases
from nnunet_box.planning.fingerprint import ChannelIntensities, Fingerprint
from nnunet_box.planning.plan import Plan
from nnunet_box.planning.planner import make_plan
from nnunet_box.preprocessing.crop import bounding_box, box_slices, nonzero_mask
from nnunet_box.preprocessing.intensities import EMPTY, ValueHistogram
from nnunet_box.preprocessing.normalise import normalise
from nnunet_box.preprocessing.pipeline import prepare_case
from nnunet_box.preprocessing.store import class_locations, has_case, open_case, write_case

FACTS = ChannelIntensities(
    mean=100.0, sd=50.0, percentile_00_5=0.0, percentile_99_5=200.0, median=100.0, minimum=-10.0, maximum=900.0
)


def plan_for(channels: tuple[str, ...], spacing: tuple[float, float, float], ratio: float = 1.0) -> Plan:
    fingerprint = Fingerprint(
        spacings=(spacing,),
        sizes=((10, 48, 40),),
        cases=10,
        modalities=channels,
        foreground_classes=2,
        size_after_crop_ratio=ratio,
        intensities=tuple(FACTS for _ in channels),
    )
    return make_plan(fingerprint, "toy", {0: "background", 1: "a", 2: "b"}, 12.0)


def test_crop_keeps_a_voxel_of_any_channel_and_fills_holes() -> None:
    image = np.zeros((2, 6, 7, 8), np.float32)
    image[0, 1:4, 2:5, 3:6] = 1
    image[0, 2, 3, 4] = 0
    image[1, 5, 2, 3] = -1
    mask = nonzero_mask(image)
    assert mask[2, 3, 4]
    assert bounding_box(mask) == ((1, 6), (2, 5), (3, 6))
    assert bounding_box(np.zeros((2, 3, 4), bool)) == ((0, 2), (0, 3), (0, 4))


def test_histograms_merge_exactly() -> None:
    random = np.random.default_rng(0)
    parts = [random.integers(-1000, 1500, size).astype(np.float32) for size in (501, 1, 2000)]
    merged = EMPTY
    for part in parts:
        merged = merged.merge(ValueHistogram.of(part))
    facts, everything = merged.intensities(), np.concatenate(parts).astype(np.float64)
    assert facts.mean == pytest.approx(everything.mean())
    assert facts.sd == pytest.approx(everything.std())
    assert facts.percentile_00_5 == pytest.approx(np.percentile(everything, 0.5))
    assert facts.percentile_99_5 == pytest.approx(np.percentile(everything, 99.5))
    assert facts.median == np.median(everything)


def test_float_intensities_stay_within_their_bound_and_bounded_in_number() -> None:
    samples = np.random.default_rng(0).normal(300, 80, 200_000).astype(np.float32)
    histogram = ValueHistogram.of(samples)
    assert len(histogram.values) < 20_000
    assert histogram.quantile(0.995) == pytest.approx(np.percentile(samples, 99.5), rel=3e-4)


def test_no_foreground_gives_zero_statistics() -> None:
    assert EMPTY.intensities().sd == 0


def test_ct_is_clipped_and_scaled_by_training_statistics() -> None:
    image = np.array([-500.0, 0.0, 100.0, 150.0, 5000.0], np.float32).reshape(1, 1, 1, 5)
    normalise(image, ["ct"], [FACTS], None)
    np.testing.assert_allclose(image.ravel(), [-2, -2, 0, 1, 2])


def test_zscore_inside_the_mask_and_zero_outside() -> None:
    image = np.random.default_rng(0).normal(40, 9, (1, 4, 8, 8)).astype(np.float32)
    mask = np.zeros((4, 8, 8), bool)
    mask[1:3, 2:6] = True
    normalise(image, ["zscore"], None, mask)
    assert image[0][mask].mean() == pytest.approx(0, abs=1e-5)
    assert image[0][mask].std() == pytest.approx(1, abs=1e-4)
    assert not image[0][~mask].any()


def test_a_constant_image_does_not_divide_by_zero() -> None:
    image = np.full((1, 2, 2, 2), 7, np.float32)
    normalise(image, ["zscore"], None, None)
    assert np.isfinite(image).all()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_there_and_back_again(configuration: str) -> None:
    plan = plan_for(("MR",), (5.0, 1.5, 1.5))
    random = np.random.default_rng(0)
    image = random.random((1, 8, 50, 44)).astype(np.float32) + 0.1
    image[:, :, :4] = image[:, :, :, -3:] = 0
    labels = np.zeros((8, 50, 44), np.uint8)
    labels[2:6, 15:35, 12:30] = 1
    labels[3:5, 20:30, 15:25] = 2
    prepared = prepare_case(image, (6.0, 1.2, 1.2), labels, plan, plan.configurations[configuration])
    depth = 8 if configuration == "2d" else 10
    assert prepared.image.shape == (1, depth, 37, 33)
    assert prepared.labels is not None
    assert prepared.placement.target_spacing == ((6.0 if configuration == "2d" else 5.0), 1.5, 1.5)
    one_hot = np.stack([(prepared.labels == value) for value in range(3)]).astype(np.float32)
    back = labels_on_source([(one_hot, prepared.placement)])
    assert back.shape == labels.shape
    for value in (1, 2):
        overlap = 2 * ((back == value) & (labels == value)).sum() / ((back == value).sum() + (labels == value).sum())
        assert overlap > 0.9
    assert image[0, 0, 10, 10] > 0.1, "the caller's image must not be normalised in place"


def test_slices_along_another_axis_come_first_in_2d() -> None:
    plan = plan_for(("MR",), (1.5, 1.5, 5.0))
    configuration = plan.configurations["2d"]
    assert configuration.axis_order is not None and configuration.axis_order[0] == 2
    image = np.random.default_rng(0).random((1, 20, 24, 6)).astype(np.float32) + 0.1
    labels = (image[0] > 0.6).astype(np.uint8)
    prepared = prepare_case(image, (1.5, 1.5, 5.0), labels, plan, configuration)
    assert prepared.image.shape == (1, 6, 20, 24)
    assert prepared.labels is not None
    back = labels_on_source(
        [(np.stack([prepared.labels == 0, prepared.labels == 1]).astype(np.float32), prepared.placement)]
    )
    np.testing.assert_array_equal(back, labels)


def test_outside_the_mask_is_marked_where_the_plan_says_so() -> None:
    image = np.random.default_rng(0).random((1, 10, 20, 20)).astype(np.float32) + 0.5
    image[:, :5, :10] = 0
    labels = np.zeros((10, 20, 20), np.uint8)
    labels[6:8, 12:15, 12:15] = 1
    for ratio, used in ((1.0, False), (0.5, True)):
        plan = plan_for(("MR",), (1.0, 1.0, 1.0), ratio)
        prepared = prepare_case(image, (1.0, 1.0, 1.0), labels, plan, plan.configurations["3d_fullres"])
        assert prepared.labels is not None
        assert (prepared.labels[2, 3, 3] == -1) == used
        assert bool(prepared.image[0, 2, 3, 3] == 0) == used
        assert (prepared.labels == 1).sum() == 18


def test_store_reads_back_what_was_written(tmp_path: Path) -> None:
    plan = plan_for(("MR",), (1.0, 1.0, 1.0))
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (9, 30, 28)).astype(np.uint8)
    image = random.random((1, 9, 30, 28)).astype(np.float32) + 0.5
    prepared = prepare_case(image, (1.0, 1.0, 1.0), labels, plan, plan.configurations["3d_fullres"])
    write_case(tmp_path, "case_1", prepared, (8, 16, 16))
    assert has_case(tmp_path, "case_1") and not has_case(tmp_path, "case_2")
    stored = open_case(tmp_path, "case_1")
    assert prepared.labels is not None
    np.testing.assert_array_equal(stored.image[:], prepared.image)
    np.testing.assert_array_equal(stored.labels[2:5, 3:9, 1:4], prepared.labels[2:5, 3:9, 1:4])
    assert stored.image.chunks == (1, 8, 16, 16)
    for value, voxels in stored.locations.items():
        assert (prepared.labels[tuple(voxels.T)] == value).all()
    (tmp_path / "case_1" / "labels.b2nd").write_bytes(b"no")
    with pytest.raises(InvalidData, match="preprocess again"):
        open_case(tmp_path, "case_1")


def test_many_locations_are_thinned_but_not_below_a_percent() -> None:
    labels = np.ones((80, 128, 128), np.int8)
    labels[0, 0, :5] = 2
    found = class_locations(labels)
    assert len(found[1]) == int(np.ceil(0.01 * (labels == 1).sum()))
    assert len(found[2]) == 5
    assert len(np.unique(found[1], axis=0)) == len(found[1])


def test_locations_leave_out_what_is_outside() -> None:
    labels = np.full((4, 4, 4), -1, np.int8)
    labels[1, 1, 1] = 1
    assert list(class_locations(labels)) == [1]


def _fail_on_three(number: int) -> int:
    if number == 3:
        raise InvalidData("case_3", "a volume", "noise", "Restore it.")
    return number * number


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_error_of_any_process_comes_through(processes: int) -> None:
    assert sorted(result for _, result in map_cases(_fail_on_three, [1, 2, 4], "squares", processes)) == [1, 4, 16]
    with pytest.raises(InvalidData, match=r"case_3: expected a volume; found noise\. Restore it\."):
        list(map_cases(_fail_on_three, [1, 2, 3, 4], "squares", processes))


def _die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_told_as_such() -> None:
    with pytest.raises(NnboxError, match="--processes 1"):
        list(map_cases(_die, [1, 2], "squares", 2))


def test_box_slices_index_what_the_box_says() -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert array[box_slices(((0, 1), (1, 3), (2, 4)))].shape == (1, 2, 2)


def test_normalising_comes_after_resampling() -> None:
    """Cubic interpolation overshoots at an edge; what CT clips at is clipped afterwards."""
    plan = plan_for(("CT",), (1.0, 1.0, 1.0))
    image = np.full((1, 10, 24, 20), 10.0, np.float32)
    image[:, :, 12:] = 200.0
    prepared = prepare_case(image, (2.0, 2.0, 2.0), None, plan, plan.configurations["3d_fullres"])
    assert prepared.image.max() == pytest.approx((200.0 - FACTS.mean) / FACTS.sd, abs=1e-6)
    assert prepared.image.min() < (10.0 - FACTS.mean) / FACTS.sd - 0.05, "the undershoot above the limit stays"
