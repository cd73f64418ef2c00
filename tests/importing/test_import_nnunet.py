"""Models of nnU-Net v2 as bundles: the same network, the same plan in our words, the same labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_samples import (
    FEATURES,
    cascade_folders,
    checkpoint,
    configuration,
    old_form,
    plans,
    predict_like_nnunet,
    random_weights,
    run_network,
    write_model,
)
from typer.testing import CliRunner

from nnunet_box.bundle import load_bundle
from nnunet_box.cli.app import app
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import read_volume, write_nifti
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.importing.model import import_models
from nnunet_box.inference.choose import network_loader
from nnunet_box.inference.ensemble import InferenceOptions, predict_case
from nnunet_box.inference.torch_runtime import plan_network

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Imported:
    """A bundle ready to run on arrays."""

    folder: Path

    def labels(self, image: np.ndarray, spacing: tuple[float, float, float], mirroring: bool = True) -> np.ndarray:
        bundle = load_bundle(self.folder, check_weights=True)
        options = InferenceOptions(mirroring=mirroring)
        members = bundle.ensemble(self.folder)

        def load(member, weights):
            return plan_network(member, weights, bundle.plan, CPU)

        return predict_case(image, spacing, bundle.plan, members, load, options)


def blobs(shape: tuple[int, ...], seed: int = 3) -> np.ndarray:
    """A smooth image without a zero, so that nothing is cropped."""
    from scipy import ndimage

    noise = np.random.default_rng(seed).normal(size=shape)
    return (50 + 20 * ndimage.gaussian_filter(noise, 1.2) / 0.2).astype(np.float32)


@pytest.mark.parametrize("runtime_name", ["torch", "openvino"])
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_the_network_computes_what_nnunet_computes(tmp_path: Path, name: str, runtime_name: str) -> None:
    pytest.importorskip(runtime_name)
    write_model(tmp_path / "model", name)
    bundle = import_models([tmp_path / "model"], tmp_path / "bundle")
    load, _ = network_loader(bundle.plan, runtime_name, "cpu")
    (member,) = bundle.ensemble(tmp_path / "bundle")
    runtime = load(member, member.weights[0])
    dimensions = 2 if name == "2d" else 3
    batch = torch.randn((2, 1, *(8, 16, 16)[3 - dimensions :]), generator=torch.Generator().manual_seed(1))
    expected = run_network(random_weights(dimensions), batch).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(runtime(batch.numpy()), expected, atol=2e-4)


# Near isotropic, resampled; anisotropic with slices apart; as it is, larger and smaller than the patch.
@pytest.mark.parametrize(
    ("shape", "spacing", "target"),
    [
        ((14, 22, 26), (1.5, 1.25, 0.75), (2.0, 1.0, 1.0)),
        ((7, 20, 24), (8.0, 0.8, 0.8), (5.0, 1.0, 1.0)),
        ((10, 30, 12), (2.0, 1.0, 1.0), (2.0, 1.0, 1.0)),
    ],
)
@pytest.mark.parametrize("mirroring", [True, False])
def test_labels_are_those_of_nnunets_steps(
    tmp_path: Path,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    target: tuple[float, float, float],
    mirroring: bool,
) -> None:
    plan = plans({"3d_fullres": configuration(3, target)})
    write_model(tmp_path / "model", folds=(0, 3), plan=plan)
    import_models([tmp_path / "model"], tmp_path / "bundle")
    image = blobs(shape)
    found = Imported(tmp_path / "bundle").labels(image[None], spacing, mirroring)
    networks = [random_weights(seed=0), random_weights(seed=3)]
    expected = predict_like_nnunet(image, spacing, target, networks, (8, 16, 16), mirroring)
    assert len(np.unique(expected)) == 3
    # A random network is undecided in many places, where float32 and float64 part.
    assert (found == expected).mean() > 0.999


def test_transposed_plans_keep_their_axes(tmp_path: Path) -> None:
    """What nnU-Net would predict for the turned image, turned back."""
    forward = (2, 0, 1)
    plan = plans({"3d_fullres": configuration(3, (2.0, 1.5, 1.0))}, forward)
    write_model(tmp_path / "model", plan=plan)
    bundle = import_models([tmp_path / "model"], tmp_path / "bundle")
    chosen = bundle.plan.configurations["3d_fullres"]
    assert chosen.axis_order == forward and chosen.spacing == (1.5, 1.0, 2.0)
    image = blobs((20, 24, 12))
    found = Imported(tmp_path / "bundle").labels(image[None], (1.2, 1.1, 2.5))
    turned = np.ascontiguousarray(image.transpose(forward))
    expected = predict_like_nnunet(turned, (2.5, 1.2, 1.1), (2.0, 1.5, 1.0), [random_weights()], (8, 16, 16))
    assert (found == expected.transpose(np.argsort(forward))).mean() > 0.999


def test_the_older_form_of_plans_is_the_same_model(tmp_path: Path) -> None:
    write_model(tmp_path / "new")
    entry = old_form(configuration(3))
    write_model(tmp_path / "old", plan=plans({"3d_fullres": entry}))
    new, old = (import_models([tmp_path / name], tmp_path / f"{name}-bundle") for name in ("new", "old"))
    assert old.plan == new.plan and old.weights_files == new.weights_files
    blocks = old.plan.configurations["3d_fullres"].blocks
    assert blocks is not None and blocks.features == FEATURES and blocks.decoder_convolutions == (1, 2)


def test_an_inherited_configuration_under_its_own_name(tmp_path: Path) -> None:
    """A user's copy of 3d_fullres with another patch."""
    larger = {"inherits_from": "3d_fullres", "patch_size": [8, 32, 32]}
    write_model(tmp_path / "model", "3d_large", plan=plans({"3d_fullres": configuration(3), "3d_large": larger}))
    bundle = import_models([tmp_path / "model"], tmp_path / "bundle")
    assert bundle.plan.configurations["3d_fullres"].patch_size == (8, 32, 32)
    assert bundle.members[0].configuration == "3d_fullres"


def test_folds_found_given_and_of_all_cases(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", folds=(0, 2, 10, "all"))
    found = import_models([model], tmp_path / "found")
    assert [entry.fold for entry in found.members[0].weights] == [0, 2, 10]
    given = import_models([model], tmp_path / "given", folds=[2])
    assert [entry.fold for entry in given.members[0].weights] == [2]
    assert given.weights_files[0].sha256 == found.weights_files[1].sha256
    whole = import_models([model], tmp_path / "whole", folds="all")
    assert [entry.fold for entry in whole.members[0].weights] == [0]


def test_the_best_checkpoint_by_option(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    torch.save(checkpoint(random_weights(seed=7)), model / "fold_0" / "checkpoint_best.pth")
    final, best = (import_models([model], tmp_path / kind, kind=kind) for kind in ("final", "best"))
    assert final.weights_files[0].sha256 != best.weights_files[0].sha256


def test_mirroring_is_what_the_checkpoint_allows(tmp_path: Path) -> None:
    write_model(tmp_path / "none", edit=lambda values: values.update(inference_allowed_mirroring_axes=None))
    write_model(tmp_path / "some", edit=lambda values: values.update(inference_allowed_mirroring_axes=(0, 1)))
    none, some = (import_models([tmp_path / name], tmp_path / f"{name}-bundle") for name in ("none", "some"))
    assert none.plan.configurations["3d_fullres"].mirrors == ()
    assert some.plan.configurations["3d_fullres"].mirrors == (0, 1)
    image = blobs((10, 20, 20))[None]
    labels = Imported(tmp_path / "none-bundle").labels(image, (2.0, 1.0, 1.0))
    unmirrored = Imported(tmp_path / "some-bundle").labels(image, (2.0, 1.0, 1.0), mirroring=False)
    assert np.array_equal(labels, unmirrored)
    assert not np.array_equal(labels, Imported(tmp_path / "some-bundle").labels(image, (2.0, 1.0, 1.0)))


def test_convolutions_without_biases(tmp_path: Path) -> None:
    entry = configuration(3)
    entry["architecture"]["arch_kwargs"]["conv_bias"] = False

    def drop(values: dict) -> None:
        unneeded = ("conv.bias", "all_modules.0.bias")
        values["network_weights"] = {
            key: value
            for key, value in values["network_weights"].items()
            if not key.endswith(unneeded) and not (key.startswith("decoder.transpconvs") and key.endswith("bias"))
        }

    model = write_model(tmp_path / "model", plan=plans({"3d_fullres": entry}), edit=drop)
    bundle = import_models([model], tmp_path / "bundle")
    (member,) = bundle.ensemble(tmp_path / "bundle")
    runtime = plan_network(member, member.weights[0], bundle.plan, CPU)
    weights = random_weights()
    for key in weights:
        if key.endswith(("conv.bias",)) or (key.startswith("decoder.transpconvs") and key.endswith("bias")):
            weights[key] = torch.zeros_like(weights[key])
    batch = torch.randn((1, 1, 8, 16, 16), generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(runtime(batch.numpy()), run_network(weights, batch).numpy(), atol=2e-4)


def test_an_ignore_label_is_never_predicted_and_has_no_head(tmp_path: Path) -> None:
    from nnunet_samples import DATASET

    labels = DATASET["labels"] | {"ignore": 3}
    write_model(tmp_path / "model", dataset=DATASET | {"labels": labels})
    bundle = import_models([tmp_path / "model"], tmp_path / "bundle")
    assert bundle.labels == {0: "background", 1: "core", 2: "rim"}


def test_normalisation_by_channel_and_ct_statistics(tmp_path: Path) -> None:
    entry = configuration(3)
    schemes = ["CTNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"]
    entry |= {"normalization_schemes": [*schemes, "ZScoreNormalization"], "use_mask_for_norm": [False] * 4 + [True]}
    plan = plans({"3d_fullres": entry})
    statistics = plan["foreground_intensity_properties_per_channel"]
    plan["foreground_intensity_properties_per_channel"] = {str(index): statistics["0"] for index in range(5)}
    names = {str(index): name for index, name in enumerate(["CT", "a", "b", "c", "T1"])}
    from nnunet_samples import DATASET

    write_model(tmp_path / "model", plan=plan, dataset=DATASET | {"channel_names": names}, inputs=5)
    bundle = import_models([tmp_path / "model"], tmp_path / "bundle")
    assert bundle.plan.normalisation == ("ct", "none", "rescale-01", "rgb-01", "zscore")
    assert bundle.plan.use_nonzero_mask
    assert bundle.plan.intensities is not None and bundle.plan.intensities[0].sd == 60


def test_other_resampling_orders_are_kept(tmp_path: Path) -> None:
    entry = configuration(3)
    entry["resampling_fn_data_kwargs"] |= {"order": 1, "order_z": 1, "force_separate_z": True}
    entry["resampling_fn_probabilities_kwargs"] |= {"force_separate_z": False}
    write_model(tmp_path / "model", plan=plans({"3d_fullres": entry}))
    resampling = import_models([tmp_path / "model"], tmp_path / "bundle").plan.configurations["3d_fullres"].resampling
    assert resampling is not None
    assert resampling.image.model_dump() == {"order": 1, "order_apart": 1, "apart": "always"}
    assert resampling.outputs.model_dump() == {"order": 1, "order_apart": 0, "apart": "never"}


def test_a_cascade_brings_its_first_stage(tmp_path: Path) -> None:
    first, second = cascade_folders(tmp_path / "results")
    bundle = import_models([second], tmp_path / "bundle")
    (member,) = bundle.members
    assert member.configuration == "3d_cascade_fullres"
    assert member.previous_stage is not None and member.previous_stage.configuration == "3d_lowres"
    image = blobs((10, 20, 24))
    found = Imported(tmp_path / "bundle").labels(image[None], (2.0, 1.0, 1.0), mirroring=False)
    before = predict_like_nnunet(image, (2.0, 1.0, 1.0), (3.0, 2.0, 2.0), [random_weights()], (8, 16, 16), False)
    weights = random_weights(inputs=3)

    # On the file's own grid the second stage is the network, window by window.
    alone = Imported(tmp_path / "bundle").labels(image[None], (2.0, 1.0, 1.0), mirroring=False)
    assert np.array_equal(found, alone)
    normal = (image - image.mean()) / image.std()
    inputs = np.stack([normal, before == 1, before == 2])[None, :, 1:9, 2:18, 4:20].astype(np.float32)
    assert run_network(weights, torch.from_numpy(inputs)).shape == (1, 3, 8, 16, 16)
    first.rename(tmp_path / "moved")
    with pytest.raises(InvalidData, match="--previous-stage"):
        import_models([second], tmp_path / "again")
    assert import_models([second], tmp_path / "again", previous_stage=tmp_path / "moved") == bundle


def test_two_folders_are_an_ensemble_of_probabilities(tmp_path: Path) -> None:
    plan = plans()
    write_model(tmp_path / "flat", "2d", plan=plan)
    write_model(tmp_path / "deep", "3d_fullres", plan=plan)
    bundle = import_models([tmp_path / "flat", tmp_path / "deep"], tmp_path / "both")
    assert [member.configuration for member in bundle.members] == ["2d", "3d_fullres"]
    image = blobs((10, 20, 20))[None]
    joint = Imported(tmp_path / "both").labels(image, (2.0, 1.0, 1.0))
    for name in ("flat", "deep"):
        import_models([tmp_path / name], tmp_path / f"{name}-alone")
    single = [Imported(tmp_path / f"{name}-alone").labels(image, (2.0, 1.0, 1.0)) for name in ("flat", "deep")]
    agreed = single[0] == single[1]
    assert 0.1 < agreed.mean() < 0.99
    # A mean of two softmaxes can leave both favourites for a third, but not when there is one favourite of both
    # with more than half in each; most such voxels stay.
    assert (joint == single[0])[agreed].mean() > 0.9
    with pytest.raises(UsageError, match="second model"):
        import_models([tmp_path / "flat", tmp_path / "flat"], tmp_path / "twice")
    write_model(tmp_path / "other", plan=plans() | {"dataset_name": "Dataset043_Other"})
    with pytest.raises(UsageError, match="another data set"):
        import_models([tmp_path / "flat", tmp_path / "other"], tmp_path / "mixed")


def test_the_command_and_a_prediction_of_a_plain_folder(tmp_path: Path) -> None:
    write_model(tmp_path / "model", folds=(0, 1))
    runner = CliRunner()
    command = ["import-nnunet", str(tmp_path / "model"), "-o", str(tmp_path / "bundle"), "--folds", "1", "--json"]
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["models"] == {"3d_fullres": [1]} and answer["challenge"] is None
    image = blobs((9, 18, 20))
    geometry = Geometry(image.shape, (3.0, 1.2, 1.2))
    write_nifti(tmp_path / "images" / "case_0000.nii.gz", image, geometry)
    arguments = ["predict", str(tmp_path / "bundle"), str(tmp_path / "images"), str(tmp_path / "out")]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    labels = read_volume(tmp_path / "out" / "case.nii.gz").array
    expected = predict_like_nnunet(image, (3.0, 1.2, 1.2), (2.0, 1.0, 1.0), [random_weights(seed=1)], (8, 16, 16))
    assert (labels == expected).mean() > 0.999


def test_a_bundle_written_before_conventions_reads_as_the_papers(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    written = import_models([tmp_path / "model"], tmp_path / "bundle").plan
    ours = replace_conventions(written)
    values = ours.model_dump(mode="json")
    assert "conventions" not in values and written.model_dump(mode="json")["conventions"] == "nnunet-v2"
    assert "blocks" not in values["configurations"]["3d_fullres"]


def replace_conventions(plan):
    bare = {
        name: entry.model_copy(update={"blocks": None, "resampling": None, "mirror_axes": None})
        for name, entry in plan.configurations.items()
    }
    return plan.model_copy(update={"conventions": "paper", "configurations": bare})
