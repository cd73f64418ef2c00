"""What a network of nnU-Net v2 is given: normalised on the file's grid, resampled without overshoot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunet_samples import configuration, plans, resample, write_model
from scipy import ndimage

from nnunet_box.importing.model import import_models
from nnunet_box.inference.tiles import tile_weight
from nnunet_box.planning.plan import Plan
from nnunet_box.preprocessing.pipeline import prepare_case

SHAPE, SPACING = (9, 20, 24), (2.0, 1.3, 0.8)
GRIDS = [((2.0, 1.0, 1.0), (9, 26, 19), False), ((7.0, 1.0, 1.0), (3, 26, 19), True)]


def plan_of(folder: Path, target: tuple[float, float, float], **changes: Any) -> Plan:
    write_model(folder / "model", plan=plans({"3d_fullres": configuration(3, target) | changes}))
    return import_models([folder / "model"], folder / "bundle").plan


def sharp(seed: int = 1) -> np.ndarray:
    """Edges that a cubic spline overshoots, and a few voxels far out."""
    generator = np.random.default_rng(seed)
    image = np.where(ndimage.gaussian_filter(generator.normal(size=SHAPE), 1.5) > 0, 300.0, 20.0)
    image += generator.normal(scale=3, size=SHAPE)
    image[4, 10, 12] = 5000
    return image.astype(np.float32)


def prepared(plan: Plan, image: np.ndarray) -> np.ndarray:
    return prepare_case(image[None], SPACING, None, plan, plan.configurations["3d_fullres"]).image[0]


@pytest.mark.parametrize(("target", "shape", "apart"), GRIDS)
def test_z_scores_are_taken_before_resampling_and_overshoot_is_cut(
    tmp_path: Path, target: tuple[float, float, float], shape: tuple[int, int, int], apart: bool
) -> None:
    image = sharp()
    found = prepared(plan_of(tmp_path, target), image)
    expected = resample((image - image.mean()) / image.std(), shape, 3, apart)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    uncut = ndimage.zoom(image[4] if apart else image, np.divide(shape, SHAPE)[1 if apart else 0 :], order=3)
    assert uncut.min() < image.min() - 10, "the sample has no overshoot to cut"


@pytest.mark.parametrize(("target", "shape", "apart"), GRIDS)
def test_ct_is_clipped_before_resampling(
    tmp_path: Path, target: tuple[float, float, float], shape: tuple[int, int, int], apart: bool
) -> None:
    image = sharp()
    found = prepared(plan_of(tmp_path, target, normalization_schemes=["CTNormalization"]), image)
    expected = resample((np.clip(image, -40, 400) - 120) / 60, shape, 3, apart)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    late = (np.clip(resample(image, shape, 3, apart), -40, 400) - 120) / 60
    assert np.abs(late - expected).max() > 0.5, "the order would not matter for this sample"


def test_the_mask_is_the_files_and_outside_stays_zero(tmp_path: Path) -> None:
    image = sharp()
    image[:, :4], image[:, :, 20:] = 0, 0
    image[3, 5, 5] = 0  # a hole, which belongs to the inside
    body = image[:, 4:, :20]
    body[0, :3, :3] = 0  # a corner of the box, outside
    inside = ndimage.binary_fill_holes(body != 0)
    assert not inside.all() and inside[3, 1, 5]
    found = prepared(plan_of(tmp_path, (2.0, 1.3, 0.8), use_mask_for_norm=[True]), image)
    expected = np.where(inside, (body - body[inside].mean()) / body[inside].std(), 0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("NoNormalization", lambda image: image),
        ("RescaleTo01Normalization", lambda image: (image - image.min()) / (image.max() - image.min())),
        ("RGBTo01Normalization", lambda image: image / 255),
    ],
)
def test_further_normalisations(tmp_path: Path, scheme: str, expected: Any) -> None:
    image = sharp()
    found = prepared(plan_of(tmp_path, (2.0, 1.3, 0.8), normalization_schemes=[scheme]), image)
    np.testing.assert_allclose(found, expected(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("patch", [(8, 16, 16), (1, 56, 40), (5, 7, 12)])
def test_the_windows_weight_is_a_gaussian_filter_of_one_voxel(patch: tuple[int, ...]) -> None:
    peak = np.zeros(patch)
    peak[tuple(edge // 2 for edge in patch)] = 1
    weight = ndimage.gaussian_filter(peak, [edge / 8 for edge in patch], mode="constant")
    weight = (weight / weight.max() * 10).astype(np.float16)
    weight[weight == 0] = weight[weight > 0].min()
    np.testing.assert_allclose(tile_weight(patch, "gaussian-v2"), weight.astype(np.float32), rtol=2e-3)
