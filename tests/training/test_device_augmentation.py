"""Augmentation by torch, on the CPU here: the same as the compiled kernels that training on a CPU uses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_box.dataset.splits import Fold
from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.variant import PAPER, recipe
from nnunet_box.preprocessing.store import open_case
from nnunet_box.training import batches as batches_module
from nnunet_box.training.augmentation import PROBABILITY, SpatialRanges
from nnunet_box.training.batches import BatchSet, BatchSource, batch_loader, resident_bytes
from nnunet_box.training.device_augmentation import (
    LABELS_AT_ONCE,
    RawBatch,
    augment,
    change_gamma,
    move,
    positions,
    smooth,
    warp_images,
    warp_labels,
)
from nnunet_box.training.draws import draw_sample
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.spatial import rotation
from nnunet_box.training.trainer import Trainer
from nnunet_box.training.transforms import change_gamma as change_gamma_in_place
from nnunet_box.training.warp import displacements, warp
from tests.training.toys import SLICES, VOLUME, toy_plan, toy_store

CPU = torch.device("cpu")
IN_PLANE = VOLUME.model_copy(update={"in_plane_augmentation": True})
MOVES = [((24, 30, 28), (34, 40, 36), [0.2, -0.1, 0.15]), ((40, 50), (60, 61), [0.4])]


class Counted(TorchDispatchMode):
    """How often each operation is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


def source(folder: Path, configuration: Configuration, **changes: Any) -> BatchSource:
    names = sorted(path.name for path in folder.iterdir()) or toy_store(folder, 3)
    values = {"batch_size": configuration.batch_size, "mask_image": False, "seed": 1, "fold": 0, "classes": 3}
    return BatchSource(folder, tuple(names), configuration, **(values | changes))


@pytest.mark.parametrize(("shape", "read", "angles"), MOVES)
def test_images_and_labels_are_moved_as_the_kernels_move_them(
    shape: tuple[int, ...], read: tuple[int, ...], angles: list[float]
) -> None:
    random = np.random.default_rng(0)
    image = random.normal(size=read).astype(np.float32)
    labels = random.integers(0, LABELS_AT_ONCE + 4, [length // 6 + 1 for length in read]).astype(np.int8)
    for axis, length in enumerate(read):
        labels = np.repeat(labels, 6, axis).take(range(length), axis)
    labels[:3] = -1
    noise = random.random((len(shape), *shape))
    affine = np.ascontiguousarray(1.2 * rotation(angles).T)
    offsets = displacements(list(noise), shape, 9.7, 200.0)
    expected, expected_labels = np.empty((1, *shape), np.float32), np.empty((1, *shape), np.int8)
    warp(image[None], labels[None], affine, offsets, -1, expected, expected_labels)

    smoothed = smooth(torch.from_numpy(noise).float()[None] * 2 - 1, torch.tensor([9.7])) * 200
    np.testing.assert_allclose(smoothed[0], offsets, atol=1e-4)
    at = positions(smoothed, torch.from_numpy(affine).float()[None], read)
    moved = warp_images(torch.from_numpy(image)[None, None], at)[0, 0].numpy()
    np.testing.assert_allclose(moved, expected[0], atol=2e-4)
    found = warp_labels(torch.from_numpy(labels)[None, None], at, LABELS_AT_ONCE + 4)[0, 0].numpy()
    assert np.mean(found == expected_labels[0]) > 0.9999
    assert len(np.unique(found)) > LABELS_AT_ONCE and -1 in found


def test_slices_of_a_patch_are_moved_alike() -> None:
    random = torch.Generator().manual_seed(0)
    images, labels = torch.randn((2, 1, 3, 30, 31), generator=random), torch.zeros((2, 3, 30, 31), dtype=torch.int8)
    images[:, :, 2] = images[:, :, 0]
    batch = RawBatch(
        torch.zeros((0, 1, 3, 20, 20)),
        torch.zeros((0, 3, 20, 20), dtype=torch.int8),
        images,
        labels,
        torch.eye(2).repeat(2, 1, 1) * 1.1,
        torch.tensor([[100.0, 9.0], [0.0, 9.0]]),
        torch.ones(2, 1),
        torch.zeros((2, 3), dtype=torch.bool),
        torch.tensor(7),
    )
    moved, _ = move(batch, (3, 20, 20), 2)
    assert torch.equal(moved[:, :, 2], moved[:, :, 0])
    assert not torch.equal(moved[:, :, 1], moved[:, :, 0])


def test_gamma_is_that_of_the_cpu_and_one_changes_nothing() -> None:
    images = torch.randn((2, 2, 6, 7, 8), generator=torch.Generator().manual_seed(0))
    gamma = torch.tensor([[0.8, 1.0], [1.4, 0.7]])
    found = change_gamma(images, gamma)
    for sample, channel in np.ndindex(2, 2):
        expected = images[sample, channel].numpy().copy()
        if gamma[sample, channel] != 1:
            change_gamma_in_place(expected, float(gamma[sample, channel]), False)
        np.testing.assert_allclose(found[sample, channel], expected, atol=1e-4)
    assert torch.equal(found[0, 1], images[0, 1])


def test_mirroring_and_outside_go_sample_by_sample() -> None:
    images, labels = torch.arange(2.0 * 4 * 4).reshape(2, 1, 4, 4), torch.zeros((2, 4, 4), dtype=torch.int8)
    labels[1, 0] = -1
    nothing = torch.zeros((0, 1, 4, 4)), torch.zeros((0, 4, 4), dtype=torch.int8), torch.zeros(0, 2, 2)
    flips = torch.tensor([[False, True], [True, False]])
    batch = RawBatch(
        images, labels, *nothing, torch.zeros(0, 2), torch.ones(2, 1), flips, torch.tensor(0)
    )  # fmt: skip
    mirrored, truth = augment(batch, (4, 4), 2, mask_image=True)
    assert torch.equal(mirrored[0, 0], images[0, 0].flip(1))
    assert torch.equal(mirrored[1, 0, :3], images[1, 0].flip(0)[:3])
    assert mirrored[1, 0, 3].abs().sum() == 0, "outside of the case, which was mirrored too"
    assert truth.dtype == torch.int64 and truth.min() == 0


def test_draws_have_the_paper_probabilities_and_ranges() -> None:
    ranges, random = SpatialRanges.of(VOLUME), np.random.default_rng(0)
    draws = [draw_sample(random, ranges, PAPER, 2) for _ in range(3000)]
    assert np.mean([draw.alpha > 0 for draw in draws]) == pytest.approx(PROBABILITY, abs=0.03)
    assert np.mean([draw.moves for draw in draws]) == pytest.approx(1 - (1 - PROBABILITY) ** 3, abs=0.03)
    assert np.mean([draw.gamma[0] != 1 for draw in draws]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([draw.flips for draw in draws]) == pytest.approx(0.5, abs=0.03)
    scales = np.array([np.linalg.det(draw.affine) ** (1 / 3) for draw in draws])
    changed = scales[np.abs(scales - 1) > 1e-9]
    assert 0.85 <= changed.min() < 0.87 and 1.23 < changed.max() <= 1.25
    assert np.mean(changed < 1) == pytest.approx(0.5, abs=0.06)
    gammas = np.array([value for draw in draws for value in draw.gamma if value != 1])
    assert 0.7 <= gammas.min() < 0.71 and 1.49 < gammas.max() <= 1.5
    still = [draw_sample(random, ranges, recipe(["no-augmentation"]), 1) for _ in range(50)]
    assert not any(draw.moves or any(draw.flips) or draw.gamma != (1.0,) for draw in still)
    with pytest.raises(ValueError, match="more"):
        draw_sample(random, ranges, recipe(["more-augmentation"]), 1)


@pytest.mark.parametrize("configuration", [VOLUME, SLICES, IN_PLANE])
def test_a_raw_batch_becomes_a_batch_and_follows_from_its_number(tmp_path: Path, configuration: Configuration) -> None:
    given = source(tmp_path, configuration, mask_image=True)
    sizes = set()
    for number in range(8):
        raw, again = (BatchSet(given).raw(number) for _ in range(2))
        image, labels = augment(raw, configuration.patch_size, 3, mask_image=True)
        assert image.shape == (configuration.batch_size, 1, *configuration.patch_size)
        assert labels.shape == (configuration.batch_size, *configuration.patch_size)
        assert set(labels.unique().tolist()) <= {0, 1, 2} and torch.isfinite(image).all()
        same = augment(again, configuration.patch_size, 3, mask_image=True)
        assert torch.equal(image, same[0]) and torch.equal(labels, same[1])
        assert len(raw.still) + len(raw.moved) == configuration.batch_size
        sizes |= {raw.still.shape[2:], raw.moved.shape[2:]}
    assert sizes == {configuration.patch_size, BatchSet(given).read_size}, "what stays is read without a margin"


def test_a_fold_trains_on_raw_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "augments_on_device", lambda source, device: source.previous is None)
    names = toy_store(tmp_path / "store", 5)
    settings = TrainingSettings("3d_fullres", 0, epochs=10, batches_per_epoch=10, workers=0, device="cpu")
    trainer = Trainer(toy_plan(), tmp_path / "store", Fold(train=names[:4], val=names[4:]), tmp_path / "fold", settings)
    trainer.run(resume=False)
    losses = [line.loss for line in trainer.progress.history]
    assert losses[-1] < losses[0] - 0.3


def test_the_number_of_operations_does_not_grow_with_the_batch(tmp_path: Path) -> None:
    """On a GPU each is a launch by the CPU, which must keep ahead."""
    counts = {}
    for size in (4, 16):
        given = source(tmp_path, VOLUME, batch_size=size)
        raw = next(raw for raw in map(BatchSet(given).raw, range(50)) if len(raw.moved) and len(raw.still))
        augment(raw, VOLUME.patch_size, 3, mask_image=False)
        with Counted() as counted:
            augment(raw, VOLUME.patch_size, 3, mask_image=False)
        counts[size] = counted.calls.total()
        waits = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.item.default"} & set(counted.calls)
        assert waits <= {"aten._local_scalar_dense.default"}
        assert counted.calls["aten._local_scalar_dense.default"] <= 1, "the seed, which is not on the device"
    assert counts[4] == counts[16] < 400


def test_training_and_validation_batches_come_from_the_same_workers(tmp_path: Path) -> None:
    training, validation = source(tmp_path, VOLUME), source(tmp_path, VOLUME, purpose=1)
    keys = [(0, 0), (1, 0), (0, 1)]
    mixed = list(batch_loader([training, validation], keys, 0, CPU))
    for (index, number), (image, labels) in zip(keys, mixed, strict=True):
        alone = BatchSet([training, validation][index])[number]
        assert torch.equal(image, alone[0]) and torch.equal(labels, alone[1])


def test_cases_that_fit_lie_on_the_device_and_make_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "augments_on_device", lambda source, device: True)
    for configuration in (VOLUME, SLICES, IN_PLANE):
        given = source(tmp_path, configuration)
        keys = [(0, number) for number in range(6)]
        needed = resident_bytes([given, given])
        assert needed == 3 * 10 * 20 * 18 * 5
        read = list(batch_loader([given], keys, 0, CPU, needed - 1))
        opened: list[Any] = []
        with monkeypatch.context() as watched:
            watched.setattr(
                batches_module, "open_case", lambda *case, seen=opened: seen.append(case) or open_case(*case)
            )
            watched.setattr(batches_module, "DataLoader", lambda *_, **__: pytest.fail("read batch by batch"))
            held = list(batch_loader([given], keys, 0, CPU, needed))
        assert len(opened) <= 6, "once to count bytes, once to read"
        for (image, labels), (same_image, same_labels) in zip(read, held, strict=True):
            assert torch.equal(image, same_image) and torch.equal(labels, same_labels)
