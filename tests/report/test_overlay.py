from __future__ import annotations

import errno

import numpy as np
import pytest
from PIL import Image

from nnunet_box.errors import NnboxError
from nnunet_box.report.overlay import COLOURS, PANEL_PIXELS, busiest_slice, colour, overlay_png

NAMES = {0: "background", 1: "ventricle", 2: "scar"}


@pytest.fixture
def case():
    random = np.random.default_rng(0)
    image = random.normal(100, 20, (5, 20, 30)).astype(np.float32)
    labels, reference = np.zeros((2, 5, 20, 30), dtype=np.uint8)
    labels[3, 4:12, 4:12] = 1
    reference[3, 6:14, 6:14] = 2
    labels[1, 0, 0] = 1
    return image, labels, reference


def colours_in(image):
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def test_both_panels_show_their_own_labels_on_the_busiest_slice(case, tmp_path):
    file = tmp_path / "overlay.png"
    assert overlay_png(*case, file, NAMES) == 3
    with Image.open(file) as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        half = picture.width // 2
        bottom = picture.height - 40  # without the legend
        left = colours_in(picture.crop((0, 0, half, bottom)))
        right = colours_in(picture.crop((half, 0, picture.width, bottom)))
    assert colour(1) in left and colour(2) not in left
    assert colour(2) in right and colour(1) not in right


def test_the_legend_names_the_structures_and_not_the_background(case, tmp_path):
    image, labels, _ = case
    with_legend, without = tmp_path / "with.png", tmp_path / "without.png"
    overlay_png(image, np.zeros_like(labels), None, with_legend, NAMES)
    overlay_png(image, np.zeros_like(labels), None, without, {0: "background"})
    with Image.open(with_legend) as shown, Image.open(without) as bare:
        assert {colour(1), colour(2)} <= colours_in(shown)
        assert not {colour(1), colour(2)} & colours_in(bare)
        assert shown.height > bare.height


def test_the_reference_may_be_missing(case, tmp_path):
    image, labels, reference = case
    overlay_png(image, labels, None, tmp_path / "one.png", NAMES)
    overlay_png(image, labels, reference, tmp_path / "two.png", NAMES)
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert one.width < two.width


def grey_extent(file):
    """Width and height in pixels of what is brighter than the canvas, below the title and without a legend."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture)[22:].max(axis=-1) > 100
    return int(pixels.any(axis=0).sum()), int(pixels.any(axis=1).sum())


@pytest.mark.parametrize(
    ("spacing", "ratio"), [((1.0, 1.0, 1.0), 1.5), ((9.0, 2.0, 1.0), 0.75), ((1.0, 1.0, 2.0), 3.0)]
)
def test_a_pixel_is_as_wide_as_high_in_millimetres(tmp_path, spacing, ratio):
    image = np.full((1, 20, 30), 200.0)
    image[0, 10, 10:20] = 0  # the window's lower end
    labels = np.ones((1, 20, 30), dtype=np.uint8)
    overlay_png(image, labels, None, tmp_path / "a.png", {}, spacing)
    width, height = grey_extent(tmp_path / "a.png")
    assert max(width, height) == PANEL_PIXELS
    assert width / height == pytest.approx(ratio, rel=0.02)


def test_outliers_do_not_wash_out_the_picture(tmp_path):
    image = np.tile(np.linspace(0, 100, 40), (1, 40, 1))
    image[0, 0, 0] = 1e6
    overlay_png(image, np.zeros((1, 40, 40), dtype=np.uint8), None, tmp_path / "a.png", {})
    with Image.open(tmp_path / "a.png") as picture:
        panel = np.asarray(picture.convert("L"))[60:380, 20:380]
    assert panel.max() > 240 and panel.min() < 30


@pytest.mark.filterwarnings("error")
def test_a_constant_image_and_an_empty_prediction_can_be_drawn(tmp_path):
    image = np.full((3, 8, 8), 7.0)
    assert overlay_png(image, np.zeros((3, 8, 8), dtype=np.uint8), None, tmp_path / "a.png", NAMES) == 1
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 0


def test_the_busiest_slice_counts_both_sides():
    labels, reference = np.zeros((2, 4, 3, 3), dtype=np.uint8)
    labels[1, 0] = 1
    reference[2, :2] = 1
    assert busiest_slice(labels) == 1
    assert busiest_slice(labels, reference) == 2
    labels[1] = 1
    assert busiest_slice(labels, reference) == 1


def test_colours_are_different_and_start_over():
    assert len(set(COLOURS)) == len(COLOURS) == 14
    assert colour(15) == colour(1)


def test_shapes_must_agree_and_nothing_is_left_where_writing_fails(case, tmp_path, monkeypatch):
    image, labels, reference = case
    with pytest.raises(ValueError, match="one shape"):
        overlay_png(image, labels[:, :-1], reference, tmp_path / "a.png", NAMES)
    with pytest.raises(ValueError, match="one shape"):
        overlay_png(image, labels, reference[:-1], tmp_path / "a.png", NAMES)
    older = tmp_path / "a.png"
    older.write_bytes(b"older")

    def full_disk(*arguments, **options):
        arguments[1].write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(NnboxError, match=r"a\.png.*No space left"):
        overlay_png(image, labels, reference, older, NAMES)
    assert older.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [older]
