"""``nnbox view`` in Chromium: what is on the screen is what is in the files."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from nnbox_challenges.synthetic import write_acdc_cohort
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import read_volume, write_nifti
from nnunet_box.report.overlay import colour
from nnunet_box.view.case import Layer, case_of_dataset, case_of_file
from nnunet_box.view.server import open_server
from nnunet_box.workspace import Workspace

pytestmark = pytest.mark.browser

CASE = "patient001_ED"
READY_MS = 60_000
SMALL = {"width": 640, "height": 480}
"""Without a graphics card each frame takes its time."""


@contextmanager
def served(case):
    with open_server(case, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def show(open_page):
    """``show(case, **options of open_page)``: the case's page, when all is on it."""
    servers = []

    def shown(case, **options):
        server = served(case)
        servers.append(server)
        return ready(open_page(server.__enter__().viewer.address, **options))

    yield shown
    for server in servers:
        server.__exit__(None, None, None)


def ready(opened):
    opened.page.wait_for_selector("body[data-ready='all'], #state.failed", timeout=READY_MS)
    assert opened.page.locator("#state.failed").count() == 0, opened.page.text_content("#state")
    return opened


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A drawn heart, laid out as convert does it, with "predictions" that are the reference moved by a voxel or two."""
    folder = tmp_path_factory.mktemp("view")
    patient = write_acdc_cohort(folder, patients=1, test_patients=0, seed=7) / "training" / "patient001"
    paths = Workspace(folder / "nnbox", "acdc")
    dataset = paths.root / "datasets" / "acdc"
    reference = read_volume(patient / "patient001_frame01_gt.nii.gz")
    write_nifti(dataset / "labelsTr" / f"{CASE}.nii.gz", reference.array.astype(np.uint8), reference.geometry)
    image = read_volume(patient / "patient001_frame01.nii.gz")
    write_nifti(dataset / "imagesTr" / f"{CASE}_0000.nii.gz", image.array, image.geometry)
    labels = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    facts = {"channel_names": {"0": "cineMRI"}, "labels": labels, "file_ending": ".nii.gz"}
    (dataset / "dataset.json").write_text(json.dumps(facts))
    for moved, folder in enumerate(("3d_fullres/fold_0", "2d/fold_0"), start=1):
        labels = np.roll(reference.array, (moved, moved), (1, 2)).astype(np.uint8)
        write_nifti(paths.models / folder / "validation" / f"{CASE}.nii.gz", labels, reference.geometry)
    paths.selection.write_text(json.dumps({"chosen": ["3d_fullres"]}))
    return paths


@pytest.fixture
def case(workspace):
    return case_of_dataset(workspace, load_dataset(workspace.root / "datasets" / "acdc"), CASE)


def picture(opened, selector="#screen"):
    opened.page.wait_for_timeout(50)
    return np.asarray(Image.open(io.BytesIO(opened.page.locator(selector).screenshot())).convert("RGB")).astype(int)


def count(picture, rgb, tolerance=6):
    return int((np.abs(picture - rgb).max(-1) <= tolerance).sum())


def test_a_case_is_shown_without_an_error_a_foreign_request_or_a_barrier(show, case):
    opened = show(case, width=400)
    page = opened.page
    assert len([one for one in opened.requests if "/labels/" in one]) == 3
    assert "token" not in page.evaluate("location.href")
    shades = picture(opened)
    assert shades.std() > 20 and count(shades, (0, 0, 0)) < 0.9 * shades.shape[0] * shades.shape[1]
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            opened.screenshot(f"view-{width}-{scheme}")
            assert opened.axe() == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        screen = page.evaluate("""() => {
            const [volume, place] = ["volume", "screen"].map((id) => document.getElementById(id));
            return [volume.width, volume.height, place.clientWidth, place.clientHeight];
        }""")
        assert screen[:2] == screen[2:], "the picture has the size of its place"
    assert opened.errors == []
    assert opened.foreign_requests(page.evaluate("location.origin") + "/") == []


def test_label_maps_are_drawn_and_go_when_they_are_switched_off(show, case):
    opened = show(case, **SMALL)
    page = opened.page
    names = [row.text_content() for row in page.locator("#layers label").all()]
    assert names == ["reference", "3d_fullres, fold 0 (selected)", "2d, fold 0"]
    page.select_option("#view", label="axial")
    tints = [colour(label) for label in (1, 2, 3)]

    def lines():
        shown = picture(opened)
        return [count(shown, tint) for tint in tints]

    page.select_option("#layer-0", "off")
    first = lines()
    assert all(number > 50 for number in first)
    page.select_option("#layer-1", "off")
    assert lines() == [0, 0, 0]
    page.select_option("#layer-2", "contour")
    second = lines()
    assert all(number > 50 for number in second) and second != first
    page.select_option("#layer-2", "fill")
    page.locator("#opacity").fill("100")
    filled = lines()
    assert all(more > 2 * number for more, number in zip(filled, second, strict=True))
    page.locator("#structures input").nth(1).uncheck()
    without = lines()
    assert without[1] == 0 and without[0] == filled[0] and without[2] == filled[2]
    assert opened.errors == []


def test_the_3d_view_shows_the_structures_of_the_layer_chosen(show, case):
    opened = show(case, **SMALL)
    page = opened.page
    page.select_option("#view", label="3-D")
    page.locator("#haze").fill("0")
    solid = picture(opened)
    hue = solid.max(-1) - solid.min(-1)
    assert (hue > 60).sum() > 1000
    page.select_option("#solid", label="2d, fold 0")
    assert np.abs(picture(opened) - solid).max() > 60
    page.select_option("#solid", label="none")
    gone = picture(opened)
    assert ((gone.max(-1) - gone.min(-1)) > 60).sum() < 100
    assert opened.errors == []


def test_dice_stands_beside_each_structure(show, case, workspace):
    page = show(case, **SMALL).page
    reference = read_volume(case.layers[0].file).array
    for layer in (1, 2):
        predicted = read_volume(case.layers[layer].file).array
        for label in (1, 2, 3):
            ours, theirs = predicted == label, reference == label
            dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
            assert page.text_content(f"#dice-{layer}-{label}") == f"{dice:.3f}"
    heads = [cell.text_content() for cell in page.locator("#heads th").all()]
    assert heads[1:] == [layer.name for layer in case.layers[1:]]


def test_keys_move_turn_off_and_zoom(show, case):
    opened = show(case, **SMALL)
    page = opened.page
    page.locator("#volume").focus()
    here = int(page.locator("#slice-2").input_value())
    page.keyboard.press("ArrowUp")
    assert int(page.locator("#slice-2").input_value()) == here + 1
    page.keyboard.press("ArrowDown")
    assert int(page.locator("#slice-2").input_value()) == here
    for expected in ("off", "contour"):
        page.keyboard.press("2")
        assert page.locator("#layer-1").input_value() == expected
    page.keyboard.press("v")
    assert page.locator("#view option:checked").text_content() == "axial"
    near = picture(opened)
    page.keyboard.press("+")
    assert np.abs(picture(opened) - near).max() > 60
    page.keyboard.press("0")
    assert np.abs(picture(opened) - near).max() <= 6
    page.locator("#slice-2").fill("3")
    assert "3 of" in page.text_content("#count-2")
    assert opened.errors == []


TURNS = {
    "as ITK stores it": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "all axes reversed": (-1, 0, 0, 0, -1, 0, 0, 0, -1),
    "sagittal slices": (0, 0, 1, 1, 0, 0, 0, 1, 0),
    "oblique": (0.96, -0.28, 0, 0.28, 0.96, 0, 0, 0, 1),
}


@pytest.mark.parametrize("direction", TURNS.values(), ids=TURNS.keys())
def test_label_maps_lie_on_what_they_mark(show, tmp_path, direction):
    """The image is bright exactly where the label map is set, so the drawn mask is that of the bright pixels, in every
    plane, whatever way the file is stored, and zoomed in as well.
    """
    grid = Geometry((9, 24, 20), (4.0, 1.0, 1.5), (30.0, -60.0, 10.0), tuple(map(float, direction)))
    labels = np.zeros(grid.shape, np.uint8)
    labels[2:8, 3:20, 4:9] = 1
    labels[2:4, 3:8, 4:17] = 1
    labels[6:8, 14:20, 2:6] = 1
    write_nifti(tmp_path / "labels.nii.gz", labels, grid)
    write_nifti(tmp_path / "image.nii.gz", (labels * 200).astype(np.int16), grid)
    shown = case_of_file(tmp_path / "image.nii.gz", [Layer("labels", tmp_path / "labels.nii.gz")])
    opened = show(shown, **SMALL)
    page = opened.page
    page.locator("#opacity").fill("100")
    page.locator("#volume").focus()
    for view, key in (("axial", None), ("coronal", None), ("sagittal", "+")):
        page.select_option("#view", label=view)
        page.locator("#volume").focus()
        if key is not None:
            page.keyboard.press(key)
        page.select_option("#layer-0", "fill")
        filled = picture(opened)
        tinted = np.abs(filled - colour(1)).max(-1) <= 6
        page.select_option("#layer-0", "contour")
        line = np.abs(picture(opened) - colour(1)).max(-1) <= 6
        page.select_option("#layer-0", "off")
        # The crosshair is bright in both, but where the filling hides it.
        bright = (picture(opened).min(-1) > 100) & (filled.min(-1) <= 100)
        overlap = (tinted & bright).sum() / (tinted | bright).sum()
        assert bright.sum() > 2000 and overlap > 0.9, (view, overlap)
        outside = line & ~binary_dilation(tinted, np.ones((3, 3)))
        assert line.sum() > 100 and not outside.any() and line.sum() < 0.2 * tinted.sum()
    assert opened.errors == []


def test_each_channel_can_be_shown_and_a_ct_has_its_windows(show, tmp_path):
    folder = tmp_path / "nnbox" / "datasets" / "two"
    grid = Geometry((6, 20, 20), (3.0, 1.0, 1.0))
    random = np.random.default_rng(3)
    ct = random.integers(-1000, 1000, grid.shape).astype(np.int16)
    write_nifti(folder / "imagesTs" / "a_0000.nii.gz", random.random(grid.shape).astype(np.float32), grid)
    write_nifti(folder / "imagesTs" / "a_0001.nii.gz", ct, grid)
    facts = {"channel_names": {"0": "T2", "1": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(facts))
    opened = show(case_of_dataset(Workspace(tmp_path / "nnbox", "two"), load_dataset(folder), "a"), **SMALL)
    page = opened.page
    assert [one.text_content() for one in page.locator("#window option").all()][0].startswith("0.5")
    first = picture(opened)
    page.select_option("#channel", label="CT")
    page.wait_for_selector("#window option:has-text('soft tissue')", state="attached")
    assert (page.input_value("#low"), page.input_value("#high")) == ("-160", "240")
    second = picture(opened)
    assert np.abs(second - first).max() > 60
    page.select_option("#window", label="CT: bone")
    assert (page.input_value("#low"), page.input_value("#high")) == ("-500", "1300")
    page.fill("#low", "900")
    page.locator("#low").blur()
    assert page.locator("#window option:checked").text_content() == "chosen"
    assert picture(opened).mean() < second.mean()
    assert opened.errors == [] and not page.locator("#layers-field").is_visible()


def test_what_cannot_be_read_is_said_on_the_page(open_page, case, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(case.layers[0].file.read_bytes()[:-20])
    from dataclasses import replace

    with served(replace(case, layers=(Layer("bad", bad),))) as server:
        opened = open_page(server.viewer.address)
        opened.page.wait_for_selector("#state.failed", timeout=READY_MS)
        assert "bad.nii.gz" in opened.page.text_content("#state")


def test_the_command_prints_where_and_ends_with_ctrl_c(open_page, workspace):
    command = [sys.executable, "-m", "nnunet_box.cli.app", "view", CASE, "--workspace", str(workspace.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        opened = ready(open_page(address))
        assert opened.page.text_content("h1") == CASE and opened.errors == []
        again = open_page(address)
        assert "nnbox view" in again.page.text_content("body") and again.page.locator("h1").count() == 0
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, rest) == (0, "")
    assert "ssh -N -L" in said and "3d_fullres, fold 0 (selected)" in said and "Traceback" not in said


@pytest.mark.real_data
def test_a_real_acdc_case_is_shown_with_contours(show, real_data, tmp_path):
    patient = sorted((real_data / "ACDC" / "database" / "training").glob("patient*"))[0]
    reference = sorted(patient.glob("*_gt.nii.gz"))[0]
    image = Path(str(reference).replace("_gt", ""))
    volume = read_volume(reference)
    moved = tmp_path / "moved.nii.gz"
    write_nifti(moved, np.roll(volume.array, (3, 3), (1, 2)).astype(np.uint8), volume.geometry)
    layers = [Layer("reference", reference, reference=True), Layer("prediction", moved)]
    opened = show(case_of_file(image, layers))
    opened.screenshot("view-acdc")
    assert opened.errors == [] and opened.axe() == []
    opened.page.select_option("#view", label="axial")
    shown = picture(opened)
    assert all(count(shown, colour(label)) > 50 for label in (1, 2, 3))
    opened.page.select_option("#layer-1", "off")
    assert all(count(picture(opened), colour(label)) == 0 for label in (1, 2, 3))
    spacing = nibabel.load(image).header.get_zooms()
    assert spacing[2] >= 5
