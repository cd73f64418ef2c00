"""Model folders that are not imported: each is refused with the file, what was expected and what was found, and nothing
is written.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_samples import DATASET, checkpoint, configuration, plans, random_weights, write_model

from nnunet_box.cli.app import main
from nnunet_box.errors import InvalidData
from nnunet_box.importing.model import import_models

Change = Callable[[dict[str, Any]], Any]


def refused(tmp_path: Path, model: Path, **options: Any) -> InvalidData:
    """The refusal; nothing is left where the bundle would be, nor beside it."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidData) as caught:
        import_models([model], tmp_path / "bundle", **options)
    assert sorted(tmp_path.iterdir()) == before
    return caught.value


def changed(**changes: Any) -> dict[str, Any]:
    """Plans whose 3d_fullres differs."""
    return plans({"3d_fullres": configuration(3) | changes})


def with_network(**changes: Any) -> dict[str, Any]:
    """Plans whose network's arguments differ."""
    entry = configuration(3)
    entry["architecture"]["arch_kwargs"] |= changes
    return plans({"3d_fullres": entry})


def of_class(name: str) -> dict[str, Any]:
    entry = configuration(3)
    entry["architecture"]["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{name}"
    return plans({"3d_fullres": entry})


def test_regions_are_named(tmp_path: Path) -> None:
    labels = {"background": 0, "whole tumour": [1, 2], "core": [2]}
    model = write_model(tmp_path / "model", dataset=DATASET | {"labels": labels, "regions_class_order": [1, 2]})
    error = refused(tmp_path, model)
    assert "regions: core, whole tumour" in str(error) and error.file.name == "dataset.json"


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (of_class("ResidualEncoderUNet"), "ResidualEncoderUNet"),
        (changed(architecture=[]), "network PlainConvUNet; found none"),
        (plans() | {"image_reader_writer": "NaturalImage2DIO"}, "NaturalImage2DIO"),
        (plans() | {"image_reader_writer": "NibabelIOWithReorient"}, "NibabelIOWithReorient"),
        (plans() | {"label_manager": "MyLabels"}, "MyLabels"),
        (plans() | {"transpose_backward": [1, 0, 2]}, "transpose_backward"),
        (plans() | {"transpose_forward": [0, 0, 2]}, "transpose_forward"),
        (changed(preprocessor_name="MyPreprocessor"), "MyPreprocessor"),
        (changed(normalization_schemes=["MyNormalization"]), "MyNormalization"),
        (changed(normalization_schemes=["CTNormalization", "CTNormalization"]), "of 1 channels; found 2 and 1"),
        (changed(resampling_fn_data="resample_torch_fornnunet"), "resample_torch_fornnunet"),
        (changed(resampling_fn_data_kwargs={"order": 5}), "resampling_fn_data_kwargs.order"),
        (changed(spacing=[1.0, 1.0]), "of 3 axes"),
        (changed(spacing=[1.0, 0.0, 1.0]), "greater than 0"),
        (changed(patch_size=[8, 17, 16]), "17 voxels"),
        (with_network(norm_op="torch.nn.modules.batchnorm.BatchNorm3d"), "BatchNorm3d"),
        (with_network(norm_op_kwargs={"eps": 1e-3, "affine": True}), "eps"),
        (with_network(nonlin="torch.nn.ReLU"), "ReLU"),
        (with_network(nonlin_first=True), "nonlin_first"),
        (with_network(kernel_sizes=2), "odd kernel_sizes"),
        (with_network(strides=[[2, 2, 2], [1, 2, 2], [2, 2, 2]]), "first stage at full resolution"),
        (with_network(strides=[[1, 1, 1], [1, 3, 2], [2, 2, 2]]), "patch_size"),
        (with_network(features_per_stage=[4, 8]), "features"),
        (with_network(n_stages=1), "n_stages"),
        (plans({"2d": configuration(2)}), "3d_fullres"),
        (plans({"3d_fullres": {"inherits_from": "3d_fullres"}}), "twice"),
        (changed(inherits_from=["a", "list"]), "missing"),
        (plans() | {"configurations": 3}, "configurations"),
    ],
)
def test_plans_that_ask_for_more_than_is_there(tmp_path: Path, plan: dict[str, Any], named: str) -> None:
    error = refused(tmp_path, write_model(tmp_path / "model", plan=plan))
    assert named in str(error) and error.file.name == "plans.json"


def test_residual_encoders_of_older_plans(tmp_path: Path) -> None:
    entry = {key: value for key, value in configuration(3).items() if key != "architecture"}
    model = write_model(
        tmp_path / "model", plan=plans({"3d_fullres": entry | {"UNet_class_name": "ResidualEncoderUNet"}})
    )
    assert "ResidualEncoderUNet" in str(refused(tmp_path, model))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"labels": {"background": 0, "core": 1, "rim": 3}}, "without gaps"),
        ({"labels": {"core": 0, "rim": 1}}, "background"),
        ({"labels": {"background": 0}}, "labels"),
        ({"labels": 3}, "channel_names and labels"),
        ({"channel_names": {"1": "T2"}}, "channel_names"),
    ],
)
def test_data_sets_that_are_not_nnunets(tmp_path: Path, values: dict[str, Any], named: str) -> None:
    error = refused(tmp_path, write_model(tmp_path / "model", dataset=DATASET | values))
    assert named in str(error) and error.file.name == "dataset.json"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    assert "fold_3" in str(refused(tmp_path, model, folds=[0, 3]))
    assert "checkpoint_best.pth" in str(refused(tmp_path, model, kind="best"))
    assert "fold_all" in str(refused(tmp_path, model, folds="all"))
    (model / "dataset.json").rename(tmp_path / "dataset.json")
    assert refused(tmp_path, model).file.name == "dataset.json"
    (tmp_path / "dataset.json").rename(model / "dataset.json")
    (model / "fold_0" / "checkpoint_final.pth").unlink()
    assert "fold_0" in str(refused(tmp_path, model))


def test_a_results_folder_above_the_models(tmp_path: Path) -> None:
    write_model(tmp_path / "Dataset042_Tiny" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    assert "TRAINER__PLANS__CONFIGURATION" in str(refused(tmp_path, tmp_path / "Dataset042_Tiny"))


def test_models_of_nnunet_1(tmp_path: Path) -> None:
    model = tmp_path / "nnUNetTrainerV2__nnUNetPlansv2.1"
    model.mkdir()
    (model / "plans.pkl").write_bytes(pickle.dumps({"num_stages": 1}))
    error = refused(tmp_path, model)
    assert "nnU-Net 1" in str(error) and error.file.name == "plans.pkl"


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda values: values.update(trainer_name="nnUNetTrainerMyLoss"), "nnUNetTrainerMyLoss"),
        (lambda values: values.update(trainer_name="nnUNetTrainerBN"), "nnUNetTrainerBN"),
        (lambda values: values.pop("network_weights"), "network_weights"),
        (lambda values: values.pop("init_args"), "init_args"),
        (lambda values: values.update(network_weights={"encoder": "no tensor"}), "network_weights of tensors"),
        (lambda values: values.update(inference_allowed_mirroring_axes="all"), "mirroring_axes"),
        (lambda values: values.update(inference_allowed_mirroring_axes=(0, 3)), "mirror_axes"),
        (lambda values: values["network_weights"].pop("decoder.transpconvs.0.bias"), "found none"),
        (
            lambda values: values["network_weights"].update({"decoder.seg_layers.1.bias": torch.zeros(5)}),
            "decoder.seg_layers.1.bias of shape (3,); found (5,)",
        ),
        (
            lambda values: values["network_weights"].update({"decoder.seg_layers.1.bias": torch.full((3,), torch.nan)}),
            "finite",
        ),
        (
            lambda values: values["network_weights"].update({"encoder.stages.0.0.convs.0.extra": torch.zeros(1)}),
            "also encoder.stages.0.0.convs.0.extra",
        ),
    ],
)
def test_checkpoints_of_another_network(tmp_path: Path, edit: Change, named: str) -> None:
    error = refused(tmp_path, write_model(tmp_path / "model", edit=edit))
    assert named in str(error), str(error)


def test_folds_that_disagree(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", folds=(0, 1))
    other = checkpoint(random_weights(), inference_allowed_mirroring_axes=None)
    torch.save(other, model / "fold_1" / "checkpoint_final.pth")
    assert "fold_0" in str(refused(tmp_path, model))


class Hostile:
    """Writes a file when it is unpickled without care."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.trace, "ran")


@pytest.mark.parametrize("place", ["best", "beside the weights", "a weight"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, place: str) -> None:
    trace = tmp_path / "trace"

    def poison(values: dict[str, Any]) -> None:
        if place == "a weight":
            values["network_weights"]["decoder.seg_layers.1.bias"] = Hostile(trace)
        else:
            values["_best_ema" if place == "best" else "extra"] = Hostile(trace)

    model = write_model(tmp_path / "model", edit=poison)
    error = refused(tmp_path, model)
    assert not trace.exists() and error.exit_code == 3
    assert "asks for more" in str(error) and "weights_only=False" not in str(error)
    # The pickle does what it says where it is read without care: the test above means something.
    torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert trace.exists()


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """The pickle itself damaged, the archive whole."""
    return rewritten(content, lambda name, data: data[:40] + bytes(60) + data[100:] if name.endswith("pkl") else data)


def compressed(content: bytes) -> bytes:
    return rewritten(content, lambda name, data: data, zipfile.ZIP_DEFLATED)


def rewritten(content: bytes, change: Callable[[str, bytes], bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(stream, "w", kind) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, change(entry.filename, source.read(entry)))
    return stream.getvalue()


def bare_pickle(content: bytes) -> bytes:
    return pickle.dumps({"network_weights": {}, "trainer_name": "nnUNetTrainer"})


@pytest.mark.parametrize("damage", [truncated, flipped, compressed, bare_pickle, lambda content: b""])
def test_damaged_checkpoints(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    model = write_model(tmp_path / "model")
    file = model / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(damage(file.read_bytes()))
    assert refused(tmp_path, model).file == file


def test_something_else_in_a_checkpoint(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    torch.save([1, 2], model / "fold_0" / "checkpoint_final.pth")
    assert "list" in str(refused(tmp_path, model))


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '{"dataset_name": 3}', "\xff"])
def test_damaged_plans(tmp_path: Path, content: str) -> None:
    model = write_model(tmp_path / "model")
    (model / "plans.json").write_text(content, encoding="latin-1")
    assert refused(tmp_path, model).file == model / "plans.json"


def test_the_command_ends_with_one_line_and_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", plan=of_class("ResidualEncoderUNet"))
    monkeypatch.setattr("sys.argv", ["nnbox", "import-nnunet", str(model), "-o", str(tmp_path / "bundle")])
    with pytest.raises(SystemExit) as ending:
        main()
    written = capsys.readouterr()
    assert ending.value.code == 3 and not written.out
    assert written.err.count("\n") == 1 and "ResidualEncoderUNet" in written.err
    assert not (tmp_path / "bundle").exists()


def test_samples_are_sound(tmp_path: Path) -> None:
    """What the refusals above change is imported unchanged."""
    model = write_model(tmp_path / "model", plan=changed())
    assert import_models([model], tmp_path / "bundle").dataset == "Dataset042_Tiny"
    assert json.loads((model / "dataset.json").read_text()) == copy.deepcopy(DATASET)
