"""What a recipe changes in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch.nn import functional

from nnunet_box.dataset.splits import Fold
from nnunet_box.errors import UsageError
from nnunet_box.planning.variant import VARIANTS, recipe
from nnunet_box.preprocessing.store import open_case
from nnunet_box.training.augmentation import SpatialRanges, build_augmentation
from nnunet_box.training.batches import BatchSet, BatchSource
from nnunet_box.training.loss import loss_at_every_resolution, segmentation_loss, soft_dice
from nnunet_box.training.muon import Muon
from nnunet_box.training.optimisation import clips, make_optimiser
from nnunet_box.training.schedule import BudgetSchedule, PlateauSchedule, PolySchedule
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import Trainer
from tests.training.toys import VOLUME, toy_plan, toy_store

LATER = ("deep-supervision", "sgd-poly", "more-augmentation")
SETTINGS = TrainingSettings("3d_fullres", 0, epochs=2, batches_per_epoch=2, device="cpu", workers=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fold]:
    folder = tmp_path_factory.mktemp("store")
    cases = toy_store(folder, 3)
    return folder, Fold(train=tuple(cases[1:]), val=tuple(cases[:1]))


@pytest.mark.parametrize("names", [*((name,) for name in VARIANTS), LATER], ids="+".join)
def test_every_variant_trains_and_another_does_not_continue_it(
    store: tuple[Path, Fold], tmp_path: Path, names: tuple[str, ...]
) -> None:
    one_epoch = replace(SETTINGS, variants=names, epochs=1, checkpoint_seconds=0.0)
    run = Trainer(toy_plan(), *store, tmp_path, replace(one_epoch, epochs=2))
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    assert run.run(resume=False).is_file()
    moved = [name for name, value in run.network.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(before), "every parameter of a variant takes part in training"
    with pytest.raises(UsageError, match="other settings"):
        Trainer(toy_plan(), *store, tmp_path, replace(SETTINGS, variants=())).run(resume=True)


def test_the_loss_has_the_terms_it_is_asked_for() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    cross_entropy = functional.cross_entropy(logits, labels)
    dice = soft_dice(logits.softmax(1), labels, False)
    assert segmentation_loss(logits, labels, False, "ce") == pytest.approx(float(cross_entropy))
    assert segmentation_loss(logits, labels, False, "dice") == pytest.approx(-float(dice))
    assert segmentation_loss(logits, labels, False) == pytest.approx(float(cross_entropy - dice))


def test_each_coarser_resolution_weighs_half_and_sees_the_nearest_label() -> None:
    torch.manual_seed(2)
    labels = torch.randint(0, 3, (2, 4, 8, 8))
    fine, coarse = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, 2, 4, 4)
    # The nearest voxel of a block of two is the second one, whose centre is past the block's.
    expected = 2 / 3 * segmentation_loss(fine, labels, False) + 1 / 3 * segmentation_loss(
        coarse, labels[:, 1::2, 1::2, 1::2], False
    )
    found = loss_at_every_resolution([fine, coarse], labels, False, "ce+dice")
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_optimisers_and_schedules() -> None:
    network = torch.nn.Conv3d(1, 2, 3)
    paper, sgd = recipe(()), recipe(["sgd-poly"])
    kinds = [
        tuple(type(part) for part in make_optimiser(chosen, network, 10, seconds))
        for chosen, seconds in ((paper, None), (paper, 60.0), (sgd, None), (sgd, 60.0))
    ]
    assert kinds == [
        (torch.optim.Adam, PlateauSchedule),
        (Muon, BudgetSchedule),
        (torch.optim.SGD, PolySchedule),
        (torch.optim.SGD, BudgetSchedule),
    ]
    adam, plateau = make_optimiser(paper, network, None, None)
    assert (plateau.rate, adam.defaults["weight_decay"], adam.defaults["amsgrad"]) == (3e-4, 3e-5, True)
    momentum, poly = make_optimiser(sgd, network, None, None)
    assert (poly.rate, poly.most_epochs) == (1e-2, 1000)
    assert (momentum.defaults["momentum"], momentum.defaults["nesterov"]) == (0.99, True)
    assert not clips(paper, None)
    assert clips(paper, 60.0) and clips(sgd, None)


def test_the_polynomial_schedule_falls_from_a_hundredth_to_nothing() -> None:
    schedule = PolySchedule(1e-2, most_epochs=10)
    rates = []
    while not schedule.finished:
        rates.append(schedule.rate)
        schedule.end_epoch(0.0)
    assert rates[0] == 1e-2 and len(rates) == 10
    assert rates[5] == pytest.approx(1e-2 * 0.5**0.9)
    assert schedule.rate == 0.0


def test_no_augmentation_cuts_patches_out_and_nothing_else(tmp_path: Path) -> None:
    names = toy_store(tmp_path, 3)
    whole = [np.asarray(open_case(tmp_path, name).image[:]) for name in names]
    source = BatchSource(tmp_path, tuple(names), VOLUME, 2, False, 1, 0, classes=3)

    def is_cut_out(patch: NDArray[np.float32]) -> bool:
        size = VOLUME.patch_size
        return any(
            np.array_equal(window[0], patch[0])
            for image in whole
            for window in sliding_window_view(image, size, axis=(1, 2, 3)).reshape(-1, 1, *size)
        )

    bare = BatchSet(replace(source, recipe=recipe(["no-augmentation"])))
    assert all(is_cut_out(image.numpy()) for number in range(3) for image in bare[number][0])
    moved = BatchSet(source)
    assert not all(is_cut_out(image.numpy()) for number in range(3) for image in moved[number][0])


def test_more_augmentation_moves_further_and_adds_noise() -> None:
    more = recipe(["more-augmentation"])
    ranges = SpatialRanges.of(VOLUME, more)
    assert ranges.scale == (0.7, 1.4)
    assert ranges.rotation == pytest.approx(np.deg2rad(30))
    transform = build_augmentation(VOLUME, False, more)
    names = [type(step).__name__ for step in transform.transforms]
    assert not transform.transforms[0].do_elastic_deform
    assert names[1:6] == [
        "GaussianNoiseTransform",
        "GaussianBlurTransform",
        "BrightnessMultiplicativeTransform",
        "ContrastAugmentationTransform",
        "SimulateLowResolutionTransform",
    ]
    np.random.seed(0)
    size = ranges.source_size()
    image = np.random.normal(size=(1, 1, *size)).astype(np.float32)
    results = [transform(data=image.copy(), seg=np.zeros_like(image))["data"] for _ in range(40)]
    assert all(result.shape[2:] == VOLUME.patch_size and np.isfinite(result).all() for result in results)
    assert len({result.tobytes() for result in results}) > 30


def test_only_mirroring_can_be_left_out() -> None:
    def names(variants: list[str]) -> list[str]:
        return [type(step).__name__ for step in build_augmentation(VOLUME, False, recipe(variants)).transforms]

    assert [name for name in names([]) if name not in names(["no-mirroring"])] == ["OneCopyMirror"]
