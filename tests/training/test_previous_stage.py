"""The previous stage's label map in a cascade's batches: moved with the labels, then one-hot, then spoilt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_box.dataset.splits import Fold
from nnunet_box.planning.plan import Plan
from nnunet_box.planning.variant import PAPER, recipe
from nnunet_box.preprocessing.previous_stage import foreground_channels, write_previous
from nnunet_box.preprocessing.store import open_case
from nnunet_box.training import previous_stage
from nnunet_box.training.augmentation import SpatialRanges, build_augmentation
from nnunet_box.training.batches import NO_AUGMENTATION, VALIDATION, BatchSet, BatchSource
from nnunet_box.training.previous_stage import (
    RandomBinaryOperation,
    RemoveRandomComponent,
    closed,
    dilate,
    erode,
    near_foreground,
    opened,
)
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import Trainer
from tests.training.toys import VOLUME, toy_plan, toy_store

CLASSES = 3


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path, list[str]]:
    """Three cases, and label maps of a previous stage that is always right."""
    names = toy_store(tmp_path / "cases", 3)
    (tmp_path / "previous").mkdir()
    for name in names:
        write_previous(tmp_path / "previous", name, open_case(tmp_path / "cases", name).labels[:], (8, 16, 16))
    return tmp_path / "cases", tmp_path / "previous", names


def batches(stores: tuple[Path, Path, list[str]], **changes: Any) -> BatchSet:
    store, previous, names = stores
    source = BatchSource(store, tuple(names), VOLUME, 2, False, 1, 0, previous=previous, classes=CLASSES)
    return BatchSet(replace(source, **changes))


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.stack([(labels == value).float() for value in range(1, CLASSES)], 1)


def test_foreground_channels_leave_the_background_out() -> None:
    found = foreground_channels(np.array([[0, 1], [2, -1]], np.int8), CLASSES)
    assert found.dtype == np.float32 and found.tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]


def test_channels_follow_deformation_and_mirroring_with_the_labels(
    stores: tuple[Path, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previous_stage, "OPERATION_PROBABILITY", 0.0)
    monkeypatch.setattr(previous_stage, "REMOVAL_PROBABILITY", 0.0)
    source = batches(stores)
    for number in range(25):
        image, labels = source[number]
        assert image.shape == (2, 1 + CLASSES - 1, *VOLUME.patch_size)
        assert torch.equal(image[:, 1:], one_hot(labels)), "a perfect previous stage stays perfect"


def test_validation_and_no_augmentation_leave_the_channels_alone(stores: tuple[Path, Path, list[str]]) -> None:
    spoilt = 0
    for chosen in ({"recipe": NO_AUGMENTATION, "purpose": VALIDATION}, {"recipe": recipe(["no-augmentation"])}, {}):
        for number in range(12):
            image, labels = batches(stores, **chosen)[number]
            equal = torch.equal(image[:, 1:], one_hot(labels))
            assert equal or not chosen
            spoilt += not equal
    assert spoilt >= 3, "in training they are spoilt"


def test_a_batch_follows_from_its_number_alone_with_the_previous_stage_too(
    stores: tuple[Path, Path, list[str]],
) -> None:
    first = [batches(stores)[number][0] for number in (3, 5)]
    np.random.seed(99)
    again = batches(stores)
    assert torch.equal(again[5][0], first[1]) and torch.equal(again[3][0], first[0])


def test_intensities_change_and_the_channels_stay_one_hot() -> None:
    for chosen in (PAPER, recipe(["more-augmentation"])):
        transform = build_augmentation(VOLUME, False, chosen, CLASSES)
        size = SpatialRanges.of(VOLUME, chosen).source_size()
        random = np.random.default_rng(0)
        np.random.seed(0)
        for _ in range(15):
            labels = np.repeat(random.integers(0, CLASSES, (1, 1, *size)), 2, axis=1).astype(np.float32)
            batch = transform(data=random.normal(size=(1, 1, *size)).astype(np.float32), seg=labels)
            assert batch["data"].shape == (1, CLASSES, *VOLUME.patch_size) and batch["seg"].shape[1] == 1
            assert set(np.unique(batch["data"][:, 1:])) <= {0.0, 1.0}
            assert batch["data"][:, 1:].sum(axis=1).max() <= 1


def test_a_label_map_that_ends_early_does_not_blank_the_image() -> None:
    transform = build_augmentation(VOLUME, True, recipe(["no-augmentation"]), CLASSES)
    labels = np.zeros((1, 2, *VOLUME.patch_size), np.float32)
    labels[:, 0, :2], labels[:, 1, 2:4] = -1, -1
    batch = transform(data=np.ones((1, 1, *VOLUME.patch_size), np.float32), seg=labels)
    assert (batch["data"][0, 0, :2] == 0).all() and (batch["data"][0, 0, 2:] == 1).all()
    assert (batch["data"][0, 1:] == 0).all() and (batch["seg"] == 0).all()


def ball(radius: float) -> NDArray[np.bool_]:
    reach = int(radius)
    z, y, x = np.indices((2 * reach + 1,) * 3) - reach
    return np.asarray(z**2 + y**2 + x**2 <= radius**2)


@pytest.mark.parametrize("radius", [1.0, 2.3, 3.7])
def test_operations_by_distance_are_those_of_a_ball(radius: float) -> None:
    random = np.random.default_rng(int(radius * 10))
    mask = ndimage.gaussian_filter(random.normal(size=(18, 20, 22)), 2) > 0.03
    # Outside the patch nothing is known: nothing grows in from there, and nothing is eaten away.
    grown = ndimage.binary_dilation(mask, ball(radius))
    shrunk = ndimage.binary_erosion(mask, ball(radius), border_value=1)
    assert np.array_equal(near_foreground(dilate, mask, radius), grown)
    assert np.array_equal(near_foreground(erode, mask, radius), shrunk)
    assert np.array_equal(near_foreground(opened, mask, radius), ndimage.binary_dilation(shrunk, ball(radius)))
    assert np.array_equal(
        near_foreground(closed, mask, radius), ndimage.binary_erosion(grown, ball(radius), border_value=1)
    )
    small = np.zeros((30, 30, 30), bool)
    small[10:20, 11:19, 12:21] = True
    assert np.array_equal(near_foreground(dilate, small, radius), dilate(small, radius))
    for operation in (dilate, erode, opened, closed):
        assert not near_foreground(operation, np.zeros((4, 4, 4), bool), radius).any()
        assert operation(np.ones((4, 4, 4), bool), radius).all()


def two_labels() -> NDArray[np.float32]:
    """(B, 1 + 2, Z, Y, X): an image of ones, a large and a small box of label 1, a box of label 2."""
    data = np.zeros((1, 3, 24, 24, 24), np.float32)
    data[:, 0] = 1
    data[:, 1, 2:9, 2:20, 2:20] = 1
    data[:, 1, 20:22, 2:5, 2:5] = 1
    data[:, 2, 12:18, 4:18, 4:18] = 1
    return data


def test_four_samples_in_ten_are_dilated_eroded_opened_or_closed() -> None:
    np.random.seed(4)
    transform = RandomBinaryOperation(2)
    before = two_labels()
    changed = larger = smaller = 0
    for _ in range(150):
        after = transform(data=before.copy())["data"]
        assert (after[:, 0] == 1).all(), "the image is left alone"
        assert set(np.unique(after)) <= {0.0, 1.0} and after[:, 1:].sum(axis=1).max() <= 1
        if not np.array_equal(after, before):
            changed += 1
            larger += after[:, 1:].sum() > before[:, 1:].sum()
            smaller += after[:, 1:].sum() < before[:, 1:].sum()
    # Nearly every drawn operation changes something here: 60 expected, deviation 6.
    assert 42 <= changed <= 78
    assert larger >= 8 and smaller >= 8


def test_what_a_label_gains_the_others_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previous_stage, "OPERATION_PROBABILITY", 1.0)
    monkeypatch.setattr(previous_stage, "OPERATIONS", (dilate,))
    np.random.seed(0)
    orders = set()
    for _ in range(12):
        after = RandomBinaryOperation(2)(data=two_labels())["data"]
        assert after[:, 1:].sum(axis=1).max() == 1
        contested = after[0, 1:, 10, 10, 10]  # Between the boxes: it goes to the label that grew last.
        orders.add(tuple(contested.tolist()))
    assert len(orders) > 1, "labels take turns"


def test_one_sample_in_five_loses_a_small_component_of_each_label() -> None:
    np.random.seed(1)
    before = two_labels()
    voxels = before[0, 0].size
    assert before[0, 1, 2:9].sum() > 0.15 * voxels > before[0, 2].sum()
    lost = 0
    for _ in range(200):
        after = RemoveRandomComponent(2)(data=before.copy())["data"]
        assert (after[:, 0] == 1).all() and (after[:, 1, 2:9] == before[:, 1, 2:9]).all(), "too large to be lost"
        gone = (before - after)[0]
        if gone.any():
            lost += 1
            assert gone[1].sum() == before[0, 1, 20:22].sum(), "the whole small component"
            assert gone[2].sum() == before[0, 2].sum()
    assert 22 <= lost <= 58, "40 expected, deviation 5.7"


def cascade_plan() -> Plan:
    plan = toy_plan()
    low = VOLUME.model_copy(update={"spacing": (1.5, 1.5, 1.5)})
    return plan.model_copy(update={"configurations": {**plan.configurations, "3d_lowres": low}})


def test_the_network_takes_image_and_channels_and_trains(
    stores: tuple[Path, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, previous, names = stores
    settings = TrainingSettings("3d_cascade_fullres", 0, epochs=1, batches_per_epoch=2, device="cpu", workers=0)
    fold = Fold(train=names[:2], val=names[2:])
    run = Trainer(cascade_plan(), store, fold, tmp_path / "fold", settings, previous)
    assert run.network.encoder[0][0][0].weight.shape[1] == 1 + CLASSES - 1  # type: ignore[index,union-attr]
    assert run.step.batch_dice, "full resolution with a low one"
    assert not Trainer(
        cascade_plan(), store, fold, tmp_path, replace(settings, configuration="3d_lowres")
    ).step.batch_dice
    assert run.run(resume=False).is_file()
    budget = replace(settings, epochs=None, budget_seconds=2.0)
    assert Trainer(cascade_plan(), store, fold, tmp_path / "budget", budget, previous).run(resume=False).is_file()


def test_balls_have_one_to_eight_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previous_stage, "OPERATIONS", (dilate,))
    monkeypatch.setattr(previous_stage, "OPERATION_PROBABILITY", 1.0)
    np.random.seed(0)
    reached = []
    for _ in range(200):
        data = np.zeros((1, 1, 1, 1, 41), np.float32)
        data[..., 20] = 1
        grown = RandomBinaryOperation(1)(data=data)["data"]
        reached.append(int(grown.sum() - 1) // 2)
    assert set(reached) == {1, 2, 3, 4, 5, 6, 7}, "a radius drawn from 1 to 8 reaches its whole part"
