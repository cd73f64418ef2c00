"""Planes with outlines: turned as a radiologist looks at them, outlines where the voxels are."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.report.contours import MARGIN_MM, MOST_CHARACTERS, case_planes

SHAPE, SPACING = (20, 30, 40), (3.0, 2.0, 1.0)


def points(path: str) -> np.ndarray:
    """(x, y) of a path's corners."""
    return np.array([[float(value) for value in pair.split()] for pair in re.findall(r"[\d.]+ [\d.]+", path)])


def block(*sides):
    labels = np.zeros(SHAPE, np.uint8)
    labels[sides] = 1
    return labels


def test_an_outline_surrounds_its_voxels_in_millimetres():
    labels = block(slice(8, 12), slice(10, 20), slice(10, 25))
    image = np.zeros(SHAPE, np.float32)
    axial, coronal, sagittal = case_planes(image, labels, labels, Geometry(SHAPE, SPACING))
    # Around the block lie 20 mm of image, or as far as the image goes: 10 columns left, 15 right; 10 rows.
    for plane, width, height in ((axial, 15, 20), (coronal, 15, 12), (sagittal, 20, 12)):
        corners = points(plane.reference[1])
        assert np.ptp(corners[:, 0]) == pytest.approx(width, abs=1.1)
        assert np.ptp(corners[:, 1]) == pytest.approx(height, abs=1.6)
        assert corners.min() >= 0 and (corners[:, 0] <= plane.width).all() and (corners[:, 1] <= plane.height).all()
        assert plane.reference == plane.prediction
    assert axial.width == 10 + 15 + 15 and axial.height == 2 * MARGIN_MM + 20
    # Its edges are those of the voxels, not their centres.
    corners = points(axial.reference[1])
    assert (corners.min(axis=0), corners.max(axis=0)) == (pytest.approx((10, 20)), pytest.approx((25, 40)))


def test_planes_are_turned_as_the_header_says():
    """The same body stored in two ways looks the same; right is left of it, anterior and superior are up."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[12:18, 4:10, 25:35] = 1  # Of LPS axes: superior, anterior, left.
    image = (labels * 100).astype(np.float32)
    lps = Geometry(SHAPE, SPACING)
    # Turned round along x and y: RAS. The first voxel is then the other end.
    ras = Geometry(SHAPE, SPACING, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    planes = case_planes(image, labels, labels, lps)
    turned = case_planes(image[:, ::-1, ::-1], labels[:, ::-1, ::-1], labels[:, ::-1, ::-1], ras)
    assert [plane.reference for plane in planes] == [plane.reference for plane in turned]
    whole = labels.copy()
    whole[0, 0, 0] = whole[-1, -1, -1] = 2  # so that nothing is cut away
    axial, coronal, sagittal = case_planes(image, whole, whole, lps)
    centre = points(axial.reference[1]).mean(axis=0)
    assert centre[0] > axial.width / 2 and centre[1] < axial.height / 2  # the patient's left, anterior
    centre = points(coronal.reference[1]).mean(axis=0)
    assert centre[0] > coronal.width / 2 and centre[1] < coronal.height / 2  # left, superior
    centre = points(sagittal.reference[1]).mean(axis=0)
    assert centre[0] < sagittal.width / 2 and centre[1] < sagittal.height / 2  # anterior, superior


def test_of_noise_the_longest_outlines_are_drawn():
    random = np.random.default_rng(0)
    shape = (4, 300, 300)
    noise = random.integers(0, 15, shape).astype(np.uint8)
    noise[:, 100:200, 100:200] = 3
    disc = np.zeros(shape, np.uint8)
    disc[:, 50:250, 50:250] = 1
    axial, _, _ = case_planes(disc.astype(np.float32), disc, noise, Geometry(shape, (1.0, 1.0, 1.0)))
    length = sum(map(len, axial.prediction.values()))
    assert MOST_CHARACTERS * 0.99 < length <= MOST_CHARACTERS
    corners = points(axial.prediction[3])
    assert corners.min() < 110 and corners.max() > 190
    assert np.ptp(points(axial.reference[1]), axis=0) == pytest.approx((200, 200)), "the other outline is untouched"


def test_pictures_show_the_image_under_the_outline():
    labels = block(slice(8, 12), slice(10, 20), slice(10, 25))
    image = np.random.default_rng(0).normal(100, 5, SHAPE).astype(np.float32)
    image[labels == 1] = 200
    for plane in case_planes(image, labels, labels, Geometry(SHAPE, SPACING)):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(plane.picture))).convert("L")).astype(float)
        assert picture.shape[1] / picture.shape[0] == pytest.approx(plane.width / plane.height, rel=0.02)
        scale = picture.shape[1] / plane.width
        left, top = (points(plane.reference[1]).min(axis=0) * scale).astype(int) + 4
        right, bottom = (points(plane.reference[1]).max(axis=0) * scale).astype(int) - 4
        inside = picture[top:bottom, left:right].mean()
        assert inside > 200 and picture.mean() < 160


def test_where_nothing_is_labelled_the_middle_is_shown():
    image, nothing = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)
    planes = case_planes(image, nothing, nothing, Geometry(SHAPE, SPACING))
    assert [(plane.width, plane.height) for plane in planes] == [(40, 60), (40, 60), (60, 60)]
    assert not any(plane.reference or plane.prediction for plane in planes)


def test_another_shape_is_refused():
    labels = np.zeros(SHAPE, np.uint8)
    with pytest.raises(ValueError, match="prediction"):
        case_planes(labels.astype(np.float32), labels, labels[1:], Geometry(SHAPE, SPACING))
