"""Our gamma and mirroring change images as batchgenerators' do from the same random numbers, with fewer copies."""

from __future__ import annotations

import numpy as np
import pytest
from batchgenerators.transforms.color_transforms import GammaTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform

from nnunet_box.training.transforms import InPlaceGamma, OneCopyMirror
from tests.training.test_warp import peak_bytes


def batch_of(size, dtype=np.int8):
    random = np.random.default_rng(0)
    data = (random.normal(size=(12, 2, *size)) * 40 + 10).astype(np.float32)
    return {"data": data, "seg": random.integers(-1, 3, size=(12, 1, *size)).astype(dtype)}


def from_one_seed(transform, batch):
    np.random.seed(5)
    moved = transform(**{key: value.copy() for key, value in batch.items()})
    return moved, np.random.random()


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("size", [(8, 9, 10), (30, 20)])
def test_gamma_is_that_of_batchgenerators(size, inverted) -> None:
    settings = {"invert_image": inverted, "per_channel": True, "retain_stats": True, "p_per_sample": 0.6}
    batch = batch_of(size)
    batch["data"][3] = 7  # without contrast
    ours, next_number = from_one_seed(InPlaceGamma((0.7, 1.5), **settings), batch)
    theirs, expected_number = from_one_seed(GammaTransform((0.7, 1.5), **settings), batch)
    assert next_number == expected_number
    assert np.abs(ours["data"] - theirs["data"]).max() < 1e-5 * batch["data"].std()
    changed = np.abs(ours["data"] - batch["data"]).max(axis=tuple(range(1, ours["data"].ndim))) > 1
    assert 3 <= changed.sum() <= 9
    assert ours["data"].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@pytest.mark.parametrize(("size", "axes"), [((8, 9, 10), (0, 1, 2)), ((30, 20), (0, 1)), ((8, 9, 10), (0, 2))])
def test_mirroring_is_that_of_batchgenerators(size, axes, dtype) -> None:
    batch = batch_of(size, dtype)
    ours, next_number = from_one_seed(OneCopyMirror(axes), batch)
    theirs, expected_number = from_one_seed(MirrorTransform(axes), batch)
    assert next_number == expected_number
    assert np.array_equal(ours["data"], theirs["data"]) and np.array_equal(ours["seg"], theirs["seg"])
    assert ours["seg"].dtype == dtype
    assert not np.array_equal(ours["data"], batch["data"])


def test_a_sample_is_copied_once_however_many_axes_are_flipped(monkeypatch) -> None:
    batch = batch_of((16, 16, 16))
    monkeypatch.setattr(np.random, "uniform", lambda: 0.0)
    flips = []
    flip = np.flip
    monkeypatch.setattr(np, "flip", lambda array, axes: (flips.append(array.shape), flip(array, axes))[1])
    assert peak_bytes(lambda: OneCopyMirror((0, 1, 2))(**batch)) < 1.2 * batch["data"][0].nbytes
    assert len(flips) == 2 * 12
    flips.clear()
    monkeypatch.setattr(np.random, "uniform", lambda: 0.7)
    assert peak_bytes(lambda: OneCopyMirror((0, 1, 2), p_per_sample=1)(**batch)) < 4096
    assert not flips


def test_gamma_needs_memory_for_one_channel() -> None:
    batch = batch_of((32, 32, 32))
    gamma = InPlaceGamma((0.7, 1.5), per_channel=True, retain_stats=True)
    assert peak_bytes(lambda: gamma(**batch)) < 1.2 * batch["data"][0, 0].nbytes
