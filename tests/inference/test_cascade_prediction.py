"""Both stages of a cascade on a case, with networks that are formulas; the bundle that holds both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nnbox_containers.build import bundle_files
from nnunet_box.bundle import Bundle, load_bundle, write_bundle
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import read_volume, write_nifti
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.inference import entry
from nnunet_box.inference.ensemble import InferenceOptions, Member, predict_case
from nnunet_box.inference.predictor import Windows, predict_probabilities
from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Plan
from nnunet_box.preprocessing.pipeline import case_placement, prepare_case
from nnunet_box.preprocessing.previous_stage import labels_on_grid
from nnunet_box.training.checkpoint import save_weights
from tests.training.toys import VOLUME, toy_plan

LOW, FULL, CASCADE = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
PLAIN = InferenceOptions(mirroring=False)


def cascade_plan() -> Plan:
    plan = toy_plan()
    coarse = VOLUME.model_copy(update={"spacing": (1.4, 1.6, 1.6)})
    return plan.model_copy(update={"configurations": {**plan.configurations, LOW: coarse}})


def picture() -> NDArray[np.float32]:
    """(C, Z, Y, X): nothing around, dim inside, a bright box."""
    image = np.zeros((1, 16, 30, 32), np.float32)
    image[:, 2:15, 3:28, 4:30] = 1
    image[:, 5:11, 8:20, 10:22] = 9
    return image


class Stages:
    """Networks that are formulas, and how often each ran. The first stage sees the bright box as label 1; the cascade
    answers what it is given, moved up by one label.
    """

    def __init__(self) -> None:
        self.loaded: list[tuple[str, str]] = []
        self.channels: set[tuple[str, int]] = set()

    def __call__(self, member: Member, weights: Path) -> NDArray[np.float32] | object:
        self.loaded.append((member.configuration, weights.name))

        def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            self.channels.add((member.configuration, batch.shape[1]))
            logits = np.zeros((len(batch), 3, *batch.shape[2:]), np.float32)
            logits[:, 0] = 4
            if member.configuration == CASCADE:
                logits[:, 2] = 8 * batch[:, 1]
                logits[:, 1] = 8 * batch[:, 2]
            else:
                logits[:, 1] = 8 * (batch[:, 0] > 1)
            return logits

        return run


def member(previous: Member | None) -> Member:
    return Member(CASCADE, (Path("c0"), Path("c1")), (), previous)


def test_both_stages_run_in_one_call() -> None:
    stages = Stages()
    low = Member(LOW, (Path("l0"), Path("l1"), Path("l2")))
    image = picture()
    found = predict_case(image, (1.0, 1.0, 1.0), cascade_plan(), [member(low)], stages, PLAIN)
    assert stages.loaded == [(LOW, "l0"), (LOW, "l1"), (LOW, "l2"), (CASCADE, "c0"), (CASCADE, "c1")]
    assert stages.channels == {(LOW, 1), (CASCADE, 3)}
    assert set(np.unique(found)) == {0, 2}, "the cascade saw the first stage's label 1"
    box = image[0] > 5
    assert (found[box] == 2).mean() > 0.8 and (found[~box] == 2).mean() < 0.05
    assert member(low).networks == 5


def test_a_first_stage_that_is_a_member_too_runs_once() -> None:
    stages = Stages()
    low = Member(LOW, (Path("l0"), Path("l1")))
    predict_case(picture(), (1.0, 1.0, 1.0), cascade_plan(), [low, member(low)], stages, PLAIN)
    assert stages.loaded == [(LOW, "l0"), (LOW, "l1"), (CASCADE, "c0"), (CASCADE, "c1")]


def test_a_given_label_map_takes_the_first_stages_place() -> None:
    stages = Stages()
    image = picture()
    given = np.zeros(image.shape[1:], np.uint8)
    given[4:9, 6:20, 6:15] = 2
    arguments = (image, (1.0, 1.0, 1.0), cascade_plan())
    for one in (member(None), member(Member(LOW, (Path("l0"),)))):
        stages.loaded.clear()
        found = predict_case(*arguments, [one], stages, PLAIN, previous_labels=given)
        assert {name for name, _ in stages.loaded} == {CASCADE}
        assert np.array_equal(found == 1, given == 2) and not (found == 2).any()
    with pytest.raises(ValueError, match="neither"):
        predict_case(*arguments, [member(None)], stages, PLAIN)


def test_label_maps_reach_the_grid_as_reference_labels_do() -> None:
    """Cropped, resampled and padded with the image: the same voxels as the labels of a training case."""
    image = picture()
    labels = (image[0] > 5).astype(np.uint8)
    labels[6:9, 9:15, 12:18] = 2
    for spacing in ((1.0, 1.0, 1.0), (2.0, 0.7, 0.8), (5.0, 1.0, 1.0)):
        prepared = prepare_case(image, spacing, labels, cascade_plan(), VOLUME)
        placement = case_placement(image, spacing, VOLUME)
        assert placement == prepared.placement
        assert np.array_equal(labels_on_grid(labels, placement), prepared.labels)


def test_windows_and_mirrored_copies_of_image_and_labels_fit_together() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (9, 37, 14)).astype(np.int8)
    image = labels[None].astype(np.float32) * 10
    fits: list[bool] = []

    def compare(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        fits.extend(np.array_equal(one[0], 10 * one[1] + 20 * one[2]) for one in batch)
        logits = np.zeros((len(batch), 3, *batch.shape[2:]), np.float32)
        logits[:, 1:] = 9 * batch[:, 1:]
        logits[:, 0] = 5
        return logits

    found = predict_probabilities([compare], image, Windows((8, 16, 16), 3), labels)
    assert len(fits) > 8 and all(fits)
    assert np.array_equal(found.argmax(0), labels)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Random networks: two folds of a cascade, three of its first stage."""
    plan = cascade_plan()
    for name, count in ((CASCADE, 2), (LOW, 3)):
        for fold in range(count):
            network = UNet(plan.configuration_of(name), plan.inputs_of(name), 3)
            save_weights(tmp_path / name / f"{fold}.safetensors", network)
    write(tmp_path, {CASCADE: 2}, {LOW: 3})
    return tmp_path / "bundle"


def write(folder: Path, members: dict[str, int], previous: dict[str, int]) -> Bundle:
    def files(counts: dict[str, int]) -> dict[str, dict[int, Path]]:
        return {
            name: {fold: folder / name / f"{fold}.safetensors" for fold in range(count)}
            for name, count in counts.items()
        }

    return write_bundle(
        folder / "bundle",
        dataset="toy",
        challenge=None,
        plan=cascade_plan(),
        weights=files(members),
        postprocessing=Postprocessing(steps=()),
        previous_weights=files(previous),
    )


def test_a_bundle_holds_both_stages_and_nothing_else_of_the_plan(bundle: Path) -> None:
    loaded = load_bundle(bundle, check_weights=True)
    assert set(loaded.plan.configurations) == {LOW, FULL}
    (one,) = loaded.ensemble(bundle)
    assert one.previous_stage is not None
    assert (len(one.weights), len(one.previous_stage.weights), one.networks) == (2, 3, 5)
    assert one.previous_stage.configuration == LOW and all(file.is_file() for file in one.previous_stage.weights)
    (first,) = loaded.ensemble(bundle, (1,))
    assert first.previous_stage is not None
    assert [file.name for file in (*first.weights, *first.previous_stage.weights)] == ["fold_1.safetensors"] * 2
    with pytest.raises(InvalidData, match="folds"):
        loaded.ensemble(bundle, (2,))
    packed = {file.name for file in bundle_files(bundle, loaded)}
    assert len(packed) == 6 and {entry.file for entry in loaded.weights_files} < {
        path.removeprefix("bundle/") for path in packed
    }, "an image holds both stages"


def test_a_first_stage_that_is_a_member_too_is_stored_once(bundle: Path) -> None:
    both = write(bundle.parent, {LOW: 2, CASCADE: 2}, {LOW: 3})
    assert len(both.weights_files) == len(set(both.weights_files)) == 5
    assert len(list(bundle.rglob("*.safetensors"))) == 5
    load_bundle(bundle, check_weights=True)


def test_a_bundle_without_its_first_stage_is_refused(bundle: Path) -> None:
    with pytest.raises(InvalidData, match="weights of 3d_lowres, 3d_cascade_fullres's previous stage"):
        write(bundle.parent, {CASCADE: 1}, {})
    with pytest.raises(InvalidData, match="3d_lowres fold 3"):
        write(bundle.parent, {CASCADE: 1}, {LOW: 4})
    first = bundle / "weights" / LOW / "fold_2.safetensors"
    content = first.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    load_bundle(bundle)
    with pytest.raises(InvalidData, match="sha256"):
        load_bundle(bundle, check_weights=True)
    first.unlink()
    with pytest.raises(InvalidData, match=r"fold_2.safetensors: expected weights"):
        load_bundle(bundle)
    first.write_bytes(content)
    file = bundle / "bundle.json"
    value = json.loads(file.read_text())

    def refused(match: str) -> None:
        file.write_text(json.dumps(changed))
        with pytest.raises(InvalidData, match=match):
            load_bundle(bundle)

    changed = json.loads(json.dumps(value))
    changed["members"][0]["previous_stage"] = None
    refused("3d_lowres as the previous stage of 3d_cascade_fullres; found nothing")
    changed = json.loads(json.dumps(value))
    changed["members"][0]["previous_stage"]["previous_stage"] = value["members"][0]
    refused("nothing as the previous stage of 3d_lowres")
    changed = json.loads(json.dumps(value))
    del changed["plan"]["configurations"][LOW]
    refused("a plan for")
    changed = json.loads(json.dumps(value))
    changed["members"][0]["previous_stage"]["weights"][0]["file"] = "../3d_lowres/0.safetensors"
    refused("inside the bundle")


def test_the_images_entry_predicts_with_both_stages(bundle: Path, tmp_path: Path) -> None:
    shape = (8, 18, 20)
    image = np.random.default_rng(0).random(shape).astype(np.float32) + 0.1
    write_nifti(tmp_path / "in" / "a_0000.nii.gz", image, Geometry(shape, (1.0, 1.0, 1.0)))
    arguments = ["--bundle", str(bundle), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert entry.main([*arguments, "--no-mirroring", "--device", "cpu"]) == 0
    assert read_volume(tmp_path / "out" / "a.nii.gz").array.shape == shape
    assert json.loads((tmp_path / "out" / "run.json").read_text())["networks"] == 5


def test_a_plan_without_the_stages_is_no_cascade() -> None:
    with pytest.raises(UsageError, match="3d_cascade_fullres"):
        predict_case(picture(), (1.0, 1.0, 1.0), toy_plan(), [member(None)], Stages(), PLAIN)
