"""Tiles, averaging, export and the folder loop, with a network that is a formula."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_box.bundle import Bundle, load_bundle, write_bundle
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import write_nifti
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.inference import entry
from nnunet_box.inference.ensemble import InferenceOptions, Member, predict_case
from nnunet_box.inference.export import PROBABILITIES_SUFFIX, labels_on_source
from nnunet_box.inference.folder import Predictor, check_writable, exporter, input_cases, predict_folder
from nnunet_box.inference.predictor import Windows, mirror_axes, predict_probabilities
from nnunet_box.inference.tiles import axis_starts, tile_starts, tile_weight
from nnunet_box.inference.torch_runtime import TorchRuntime, choose_device, plan_network
from nnunet_box.network.unet import UNet
from nnunet_box.planning.variant import recipe
from nnunet_box.preprocessing.pipeline import Placement
from nnunet_box.training.checkpoint import save_weights
from tests.training.toys import VOLUME, toy_plan


class Threshold:
    """Voxelwise: class 1 where the image is above a half, with logits of +-4."""

    def __init__(self, gain: float = 8.0) -> None:
        self.gain, self.shapes = gain, []  # type: ignore[var-annotated]

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.shapes.append(batch.shape)
        logit = (batch[:, :1] - 0.5) * self.gain
        return np.concatenate([-logit, logit], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("length", "edge", "starts"),
    [
        (10, 10, [0]),
        (5, 10, [0]),
        (11, 10, [0, 1]),
        (15, 10, [0, 5]),
        (26, 10, [0, 4, 8, 12, 16]),
        (4, 1, [0, 1, 2, 3]),
    ],
)
def test_windows_overlap_by_half_and_reach_the_end(length: int, edge: int, starts: list[int]) -> None:
    assert axis_starts(length, edge) == starts


def test_every_voxel_is_covered() -> None:
    for shape, patch in (((13, 40, 29), (8, 16, 16)), ((7, 7, 7), (8, 8, 8))):
        seen = np.zeros([max(a, b) for a, b in zip(shape, patch, strict=True)], int)
        for start in tile_starts(seen.shape, patch):
            seen[tuple(slice(a, a + b) for a, b in zip(start, patch, strict=True))] += 1
        assert seen.min() >= 1


def test_weights() -> None:
    gaussian = tile_weight((16, 16), "gaussian")
    assert gaussian.max() == 1 and gaussian.min() > 0
    np.testing.assert_allclose(gaussian, gaussian[::-1, ::-1])
    assert gaussian[8, 8] / gaussian[8, 10] == pytest.approx(np.exp(0.5 * (2.5**2 - 0.5**2) / 4), rel=1e-5)
    assert (tile_weight((3, 3), "plain") == 1).all()
    with pytest.raises(ValueError, match="weighting"):
        tile_weight((3, 3), "cosine")


@pytest.mark.parametrize("weighting", ["gaussian", "plain"])
@pytest.mark.parametrize("patch", [(8, 16, 16), (16, 16)])
def test_a_voxelwise_network_is_reproduced_whatever_the_tiling(patch: tuple[int, ...], weighting: str) -> None:
    image = np.random.default_rng(0).random((1, 9, 37, 14)).astype(np.float32)
    found = predict_probabilities([Threshold()], image, Windows(patch, 2, weighting=weighting))
    expected = 1 / (1 + np.exp(-2 * (image[0] - 0.5) * 8))
    assert found.shape == (2, 9, 37, 14)
    np.testing.assert_allclose(found[1], expected, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-4)


def test_softmax_is_averaged_over_networks_not_logits() -> None:
    image = np.full((1, 8, 16, 16), 1.0, np.float32)
    found = predict_probabilities([Threshold(1.0), Threshold(20.0)], image, Windows((8, 16, 16), 2, mirroring=False))
    expected = np.mean([1 / (1 + np.exp(-gain)) for gain in (1.0, 20.0)])
    np.testing.assert_allclose(found[1], expected, atol=1e-5)


class LeftRight:
    """Class 1 in the upper half of each patch's last axis, whatever the image: only mirroring can even it out."""

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = np.zeros((len(batch), 2, *batch.shape[2:]), np.float32)
        logits[:, 1, ..., batch.shape[-1] // 2 :] = 5
        return logits


def test_mirroring_covers_all_flips_and_turns_them_back() -> None:
    assert len(mirror_axes(range(3), True)) == 8 and len(set(mirror_axes(range(3), True))) == 8
    assert len(mirror_axes(range(2), True)) == 4 and mirror_axes(range(3), False) == [()]
    image = np.zeros((1, 8, 16, 16), np.float32)
    once = predict_probabilities([LeftRight()], image, Windows((8, 16, 16), 2, mirroring=False))
    mirrored = predict_probabilities([LeftRight()], image, Windows((8, 16, 16), 2, mirroring=True))
    assert once[1, ..., 0].max() < 0.6 and once[1, ..., -1].min() > 0.9
    np.testing.assert_allclose(mirrored[1], mirrored[1, 0, 0, 0], atol=1e-6)


def test_calls_stay_bounded_on_large_images() -> None:
    network = Threshold()
    image = np.random.default_rng(0).random((1, 40, 300, 260)).astype(np.float32)
    predict_probabilities([network], image, Windows((32, 128, 128), 2, mirroring=True))
    assert max(int(np.prod(shape)) for shape in network.shapes) <= 2_000_000


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, Bundle]:
    weights = tmp_path / "fold_0.safetensors"
    save_weights(weights, UNet(VOLUME, 1, 3))
    folder = tmp_path / "bundle"
    written = write_bundle(
        folder,
        dataset="toy",
        challenge=None,
        plan=toy_plan(),
        weights={"3d_fullres": {0: weights, 1: weights}},
        postprocessing=Postprocessing(steps=()),
    )
    return folder, written


def write_image(file: Path, seed: int = 0, shape: tuple[int, int, int] = (6, 20, 22)) -> None:
    image = np.random.default_rng(seed).random(shape).astype(np.float32) + 0.1
    write_nifti(file, image, Geometry(shape, (1.0, 1.0, 1.0), (3.0, 4.0, 5.0)))


def test_entry_predicts_a_plain_folder(bundle: tuple[Path, Bundle], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}_0000.nii.gz")
    arguments = ["--bundle", str(bundle[0]), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert entry.main([*arguments, "--no-mirroring", "--device", "cpu"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz", "run.json"]
    source, result = (nibabel.load(tmp_path / place) for place in ("in/a_0000.nii.gz", "out/a.nii.gz"))
    assert result.get_data_dtype() == np.uint8 and result.shape == source.shape
    np.testing.assert_array_equal(result.affine, source.affine)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["networks"] == 2
    first = run["cases"][0]
    assert sum(first["voxels"].values()) == 6 * 20 * 22 and first["peak_memory_bytes"] > 10**7
    assert set(first["seconds"]) == {"read", "predict", "write"}


def test_entry_ends_with_the_errors_exit_code(
    bundle: tuple[Path, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["--bundle", str(bundle[0]), "--input", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]
    assert entry.main(arguments) == 3
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_resume_leaves_finished_cases_alone(bundle: tuple[Path, Bundle], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.nii.gz")
    calls = []

    def load(configuration: str, weights: Path) -> TorchRuntime:
        calls.append(weights.name)
        return TorchRuntime.load(weights, VOLUME, 1, 3, choose_device("cpu"))

    predictor = Predictor(bundle[1], bundle[1].ensemble(bundle[0], (1,)), load, InferenceOptions(mirroring=False))
    cases = input_cases(tmp_path / "in", 1, None)
    output = tmp_path / "out"
    predict_folder(predictor, cases[:1], output, exporter(None))
    (output / ".nnbox-tmp-1234-b.nii.gz").write_bytes(b"half")
    run = predict_folder(predictor, cases, output, exporter(None), resume=True)
    assert calls == ["fold_1.safetensors"] * 2
    assert [record.get("skipped", False) for record in run["cases"]] == [True, False]
    assert not list(output.glob(".nnbox-tmp-*"))


def test_one_case_may_be_given_as_a_file(tmp_path: Path) -> None:
    write_image(tmp_path / "patient.nii.gz")
    (case,) = input_cases(tmp_path / "patient.nii.gz", 1, None)
    assert case.id == "patient" and case.output_name == "patient.nii.gz"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(NnboxError, match="--user"):
        check_writable(tmp_path / "out")


def test_an_output_below_a_file_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NnboxError, match="cannot write here"):
        check_writable(tmp_path / "file" / "out")


def test_pairs_average_on_the_files_grid() -> None:
    image = np.random.default_rng(0).random((1, 10, 24, 20)).astype(np.float32) + 0.1

    class Constant:
        def __init__(self, logit: float) -> None:
            self.logit = logit

        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            logits = np.zeros((len(batch), 3, *batch.shape[2:]), np.float32)
            logits[:, 1] = self.logit
            logits[:, 2] = 1.0
            return logits

    networks = {"2d": Constant(0.0), "3d_fullres": Constant(2.5)}
    both = [Member("2d", (Path("x"),)), Member("3d_fullres", (Path("y"),))]
    plan = toy_plan()
    options = InferenceOptions(mirroring=False)

    def load(member: Member, _: Path) -> Constant:
        return networks[member.configuration]

    for members, expected in (([both[0]], 2), ([both[1]], 1), (both, 1)):
        labels = predict_case(image, (1.0, 1.0, 1.0), plan, members, load, options)
        assert (labels == expected).all()


@pytest.mark.parametrize("kept", [False, True])
def test_the_most_probable_class_is_taken_of_what_is_resampled_linearly(kept: bool, tmp_path: Path) -> None:
    outputs = np.random.default_rng(0).random((4, 7, 12, 9), dtype=np.float32)
    placement = Placement((12, 20, 18), ((1, 12), (0, 17), (2, 18)), (1.0,) * 3, (1.0,) * 3, (7, 12, 9), (0, 1, 2))
    factors = np.divide((11, 17, 16), (7, 12, 9))
    resampled = [ndimage.zoom(scores, factors, order=1, mode="nearest", grid_mode=True) for scores in outputs]
    expected = np.zeros(placement.shape, np.uint8)
    expected[1:, :17, 2:] = np.argmax(resampled, axis=0)
    found = labels_on_source([(outputs, placement)], tmp_path / f"a{PROBABILITIES_SUFFIX}" if kept else None)
    assert np.mean(found != expected) < 1e-3


def test_all_folds_of_a_member_are_averaged() -> None:
    probabilities = {"one": [0.5, 0.4, 0.1], "two": [0.1, 0.4, 0.5], "three": [0.2, 0.5, 0.3]}

    class Constant:
        def __init__(self, fold: str) -> None:
            self.logits = np.log(np.array(probabilities[fold], np.float32)).reshape(1, 3, 1, 1, 1)

        def __call__(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.broadcast_to(self.logits, (len(patches), 3, *patches.shape[2:])).copy()

    image = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    folds = tuple(Path(name) for name in probabilities)
    for chosen, expected in ((folds[:1], 0), (folds[1:2], 2), (folds, 1)):
        member = Member("3d_fullres", chosen)
        options = InferenceOptions(mirroring=False)
        labels = predict_case(image, (1.0,) * 3, toy_plan(), [member], lambda _, file: Constant(file.name), options)
        assert (labels == expected).all()


def test_a_bundle_is_checked(bundle: tuple[Path, Bundle], tmp_path: Path) -> None:
    folder, _ = bundle
    assert load_bundle(folder, check_weights=True).members[0].weights[1].fold == 1
    value = json.loads((folder / "bundle.json").read_text())
    value["members"][0]["weights"][0]["file"] = "../fold_0.safetensors"
    (folder / "bundle.json").write_text(json.dumps(value))
    with pytest.raises(InvalidData, match="inside the bundle"):
        load_bundle(folder)
    value["members"][0]["weights"][0]["file"] = "weights/3d_fullres/fold_0.safetensors"
    (folder / "bundle.json").write_text(json.dumps(value))
    file = folder / "weights/3d_fullres/fold_0.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    load_bundle(folder)
    with pytest.raises(InvalidData, match="sha256"):
        load_bundle(folder, check_weights=True)
    (folder / "bundle.json").write_text(json.dumps(value | {"schema_version": 2}))
    with pytest.raises(InvalidData, match="schema version 1"):
        load_bundle(folder)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", UNet(VOLUME, 2, 3))
    with pytest.raises(InvalidData, match="this plan's network"):
        TorchRuntime.load(tmp_path / "w.safetensors", VOLUME, 1, 3, choose_device("cpu"))


def test_a_network_that_never_saw_a_flip_is_not_asked_about_one() -> None:
    image = np.random.default_rng(0).random((1, 10, 24, 20)).astype(np.float32) + 0.1
    calls: list[int] = []

    def count(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(batch))
        return np.zeros((len(batch), 3, *batch.shape[2:]), np.float32)

    seen = []
    for variants in ((), ("no-mirroring",)):
        member = Member("3d_fullres", (Path("x"),), variants)
        predict_case(image, (1.0, 1.0, 1.0), toy_plan(), [member], lambda *_: count, InferenceOptions())
        seen.append(sum(calls))
        calls.clear()
    assert seen[0] == 8 * seen[1] > 0


def test_a_bundle_keeps_its_variants_and_refuses_those_it_does_not_know(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, UNet(VOLUME, 1, 3, recipe(["batch-norm"])))
    write_bundle(
        tmp_path / "bundle",
        dataset="toy",
        challenge=None,
        plan=toy_plan(),
        weights={"3d_fullres__batch-norm": {0: weights}},
        postprocessing=Postprocessing(),
    )
    bundle = load_bundle(tmp_path / "bundle", check_weights=True)
    (member,) = bundle.ensemble(tmp_path / "bundle")
    assert (member.configuration, member.variants) == ("3d_fullres", ("batch-norm",))
    network = plan_network(member, member.weights[0], bundle.plan, choose_device("cpu")).network
    assert isinstance(network.encoder[0][0][1], torch.nn.BatchNorm3d)
    value = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    value["members"][0]["variants"] = ["quantum-norm"]
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(value))
    with pytest.raises(InvalidData, match="quantum-norm"):
        load_bundle(tmp_path / "bundle")
