"""Checkpoints, workspaces, bundles and foreign models that are damaged or come from someone else: each is refused with
the file and the reason, and none runs code.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_files import FOREIGN, put
from hostile_runs import faultless_run, nnbox
from model_places import TRAIN, copied, write_models
from mutate_models import BUNDLE, FOLD, OTHER, STORE
from safetensors.numpy import load_file, save_file

from nnunet_box.arrays import open_array
from nnunet_box.bundle import load_bundle, sha256
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.evaluation.selection import load_selection
from nnunet_box.files import read_json
from nnunet_box.planning.plan import load_plan

CHECKPOINT = f"{FOLD}/checkpoint"
RESUME = [*TRAIN, "--resume"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models") / "good")


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Path:
    return copied(models, tmp_path / "place")


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run ``nnbox``; returns its message, and has seen that there is one, and no traceback."""

    def call(*arguments: str, code: int = 3, workspace: bool = True) -> str:
        monkeypatch.setattr(sys, "argv", sys.argv)
        capsys.readouterr()
        ended = nnbox([*arguments, *(["--workspace", str(place / "ws")] if workspace else [])])
        told = capsys.readouterr()
        message = (told.err.strip().splitlines() or [""])[-1]
        assert ended == code, told.err
        assert "Traceback" not in told.err
        if code == 3:
            assert message.startswith("nnbox: ") and "expected " in message and "; found " in message, told.err
        return message

    return call


def predict(run: Callable[..., str], place: Path, runtime: str, code: int = 3) -> str:
    words = ["predict", str(place / BUNDLE), str(place / "images"), str(place / "out"), "--no-mirroring"]
    return run(*words, "--runtime", runtime, code=code, workspace=False)


def weights_of(place: Path) -> Path:
    return next((place / BUNDLE).rglob("*.safetensors"))


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text())
    put(file, json.dumps(change(value) or value).encode())


def agree(place: Path) -> None:
    """Make the bundle's digests those of its files, as whoever means harm would."""
    files = {entry["file"] for entry in _entries(json.loads((place / BUNDLE / "bundle.json").read_text()))}

    def digests(value: Any) -> None:
        for entry in _entries(value):
            entry["sha256"] = sha256(place / BUNDLE / entry["file"])

    assert files
    edit(place / BUNDLE / "bundle.json", digests)


def _entries(value: Any) -> list[Any]:
    return [entry for member in value["members"] for entry in member["weights"]]


@pytest.mark.parametrize("name", ["state.json", "network.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("content", ["pickle", "torch.save", "zip", "nothing"])
def test_foreign_content_in_a_checkpoint(run, place: Path, tmp_path: Path, name: str, content: str) -> None:
    put(place / CHECKPOINT / name, FOREIGN[content](tmp_path / "canary"))
    assert name in run(*RESUME)
    assert not (tmp_path / "canary").exists()
    # And where nothing vouches for it either, as in a checkpoint of version 0.1.
    if name != "state.json":
        edit(place / CHECKPOINT / "state.json", lambda state: state.pop("files") and None)
        assert name in run(*RESUME)
        assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", ["pickle", "torch.save", "zip", "tar"])
def test_foreign_content_in_a_bundle(run, place: Path, tmp_path: Path, content: str) -> None:
    put(weights_of(place), FOREIGN[content](tmp_path / "canary"))
    assert "sha256" in predict(run, place, "torch")
    agree(place)
    for runtime in ("torch", "openvino"):
        assert weights_of(place).name in predict(run, place, runtime)
    put(place / BUNDLE / "bundle.json", FOREIGN[content](tmp_path / "canary"))
    assert "bundle.json" in predict(run, place, "torch")
    assert not (tmp_path / "canary").exists() and not list((place / "out").glob("*.nii.gz"))


@pytest.mark.parametrize(
    ("file", "command"),
    [
        (f"{STORE}/plan.json", RESUME),
        (f"{STORE}/splits.json", RESUME),
        (f"{STORE}/3d_fullres/stage.json", RESUME),
        ("ws/datasets/m/dataset.json", RESUME),
        (f"{OTHER}/stage.json", [*TRAIN[:5], "1"]),
        ("ws/models/m/CHOSEN/fold_1/weights.safetensors", ["select", "m"]),
        ("ws/models/m/selection.json", ["build-submission", "bundle", "m", "-o", "out"]),
        ("nnunet/plans.json", ["import-nnunet"]),
        ("nnunet/fold_0/checkpoint_final.pth", ["import-nnunet"]),
    ],
)
def test_foreign_content_elsewhere(
    run, place: Path, tmp_path: Path, monkeypatch, file: str, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = file.replace("CHOSEN", json.loads((place / "ws/models/m/selection.json").read_text())["chosen"][0])
    importing = command == ["import-nnunet"]
    words = [*command, str(place / "nnunet"), "-o", "out"] if importing else command
    for content in ("pickle", "torch.save", "zip"):
        put(place / file, FOREIGN[content](tmp_path / "canary"))
        assert Path(file).name in run(*words, workspace=not importing)
    assert not (tmp_path / "canary").exists() and not (tmp_path / "out").exists()


def test_the_canary_sings(tmp_path: Path) -> None:
    """What the other tests look for would be there had any of it been unpickled."""
    import pickle

    pickle.loads(FOREIGN["pickle"](tmp_path / "canary"))
    assert (tmp_path / "canary").exists()


def test_an_array_that_is_a_program(tmp_path: Path) -> None:
    import blosc2

    operand = blosc2.asarray(np.zeros((2, 3), np.float32), urlpath=str(tmp_path / "a.b2nd"), mode="w")
    (operand + 1).save(urlpath=str(tmp_path / "lazy.b2nd"))
    assert not isinstance(blosc2.open(str(tmp_path / "lazy.b2nd"), mode="r", deserialize="full"), blosc2.NDArray)
    with pytest.raises(InvalidData, match=r"lazy\.b2nd: expected an array"):
        open_array(tmp_path / "lazy.b2nd", "an array", 2, "Make it again.")
    assert open_array(tmp_path / "a.b2nd", "an array", 2, "").shape == (2, 3)
    with pytest.raises(InvalidData, match=r"NDArray of shape \(2, 3\)"):
        open_array(tmp_path / "a.b2nd", "an array", 3, "Make it again.")


@pytest.mark.parametrize("name", ["/etc/passwd", "../../weights.safetensors", "a\x00b", "x" * 5000, ".", "loop"])
def test_weights_out_of_the_bundle(place: Path, name: str) -> None:
    (place / BUNDLE / "loop").symlink_to("loop")
    edit(place / BUNDLE / "bundle.json", lambda value: _entries(value)[0].update(file=name))
    with pytest.raises(InvalidData, match="inside the bundle|no such file"):
        load_bundle(place / BUNDLE)


def test_a_link_out_of_the_bundle(place: Path) -> None:
    file = weights_of(place)
    file.rename(place / "elsewhere")
    file.symlink_to(place / "elsewhere")
    with pytest.raises(InvalidData, match="weights inside the bundle"):
        load_bundle(place / BUNDLE)


def test_weights_that_are_not_the_bundles(run, place: Path) -> None:
    file = weights_of(place)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert "expected sha256" in predict(run, place, "openvino")


def _not_finite(tensors: dict[str, Any]) -> None:
    tensors["head.weight"][:] = np.nan


def _less(tensors: dict[str, Any]) -> None:
    del tensors["head.weight"]


def _more(tensors: dict[str, Any]) -> None:
    tensors["extra"] = np.zeros(3, np.float32)


def _wider(tensors: dict[str, Any]) -> None:
    tensors["head.weight"] = np.zeros((7, *tensors["head.weight"].shape[1:]), np.float32)


def _integers(tensors: dict[str, Any]) -> None:
    tensors["head.weight"] = tensors["head.weight"].astype(np.int64)


TENSORS = [
    (_not_finite, "NaN or infinity in head.weight"),
    (_less, "head.weight"),
    (_more, "extra"),
    (_wider, "head.weight"),
    (_integers, "head.weight in int64"),
]


@pytest.mark.parametrize(("change", "named"), TENSORS)
def test_tensors_of_a_bundle(run, place: Path, change: Callable[[dict[str, Any]], None], named: str) -> None:
    tensors = load_file(weights_of(place))
    change(tensors)
    save_file(tensors, weights_of(place))
    agree(place)
    for runtime in ("torch", "openvino"):
        assert named in predict(run, place, runtime)


@pytest.mark.parametrize(("change", "named"), TENSORS)
def test_tensors_of_a_checkpoint(run, place: Path, change: Callable[[dict[str, Any]], None], named: str) -> None:
    edit(place / CHECKPOINT / "state.json", lambda state: state.pop("files") and None)
    tensors = load_file(place / CHECKPOINT / "network.safetensors")
    change(tensors)
    save_file(tensors, place / CHECKPOINT / "network.safetensors")
    assert named in run(*RESUME)


def _moment(tensors: dict[str, Any], name: str) -> str:
    return next(key for key in sorted(tensors) if key.endswith(name))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda moments: moments.pop(_moment(moments, ".exp_avg")), "exp_avg"),
        (lambda moments: moments.update({"999.exp_avg": np.zeros(3, np.float32)}), "parameter 999"),
        (lambda moments: moments.update({"none": np.zeros(3, np.float32)}), "parameter -1"),
        (lambda moments: moments.update({_moment(moments, ".exp_avg"): np.zeros(3, np.float32)}), "shape"),
        (lambda moments: moments.update({_moment(moments, ".step"): np.zeros(3, np.float32)}), "step"),
        (lambda moments: moments[_moment(moments, ".exp_avg_sq")].fill(np.inf), "NaN or infinity"),
    ],
)
def test_moments_of_a_checkpoint(run, place: Path, change: Callable[[dict[str, Any]], Any], named: str) -> None:
    edit(place / CHECKPOINT / "state.json", lambda state: state.pop("files") and None)
    moments = load_file(place / CHECKPOINT / "optimizer.safetensors")
    change(moments)
    save_file(moments, place / CHECKPOINT / "optimizer.safetensors")
    message = run(*RESUME)
    assert named in message and "optimizer.safetensors" in message


@pytest.mark.parametrize("name", ["network.safetensors", "optimizer.safetensors"])
def test_a_flipped_bit_in_a_checkpoint(run, place: Path, name: str) -> None:
    file = place / CHECKPOINT / name
    content = bytearray(file.read_bytes())
    content[-6] ^= 1
    file.write_bytes(content)
    assert "sha256" in run(*RESUME)
    file.write_bytes(content[: len(content) // 2])
    assert name in run(*RESUME)
    file.unlink()
    assert "no such file" in run(*RESUME)


def test_a_checkpoint_without_digests_is_continued(run, place: Path) -> None:
    edit(place / CHECKPOINT / "state.json", lambda state: state.pop("files") and None)
    run(*RESUME, code=0)
    assert (place / FOLD / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("progress") and None,
        lambda state: state.pop("schedule") and None,
        lambda state: state.update(schedule=[1]),
        lambda state: state["schedule"].update(rate="fast"),
        lambda state: state["schedule"].update(rate=float("nan")),
        lambda state: state["schedule"].update(rate=0),
        lambda state: state["schedule"].update(epochs_done=-5),
        lambda state: state["progress"].update(epoch=-1),
        lambda state: state["progress"].update(epoch=None),
        lambda state: state["progress"].update(batch_size=0),
        lambda state: state["progress"].update(batch_size=10**12),
        lambda state: state["progress"].update(history=[1, 2]),
        lambda state: state["progress"].update(losses=[0.1] * 7),
        lambda state: state.update(files={"../../elsewhere": "0"}),
        lambda state: state.update(files=3),
        lambda state: state.update(schema_version=99),
        lambda state: [state],
    ],
)
def test_a_state_that_cannot_be(run, place: Path, change: Callable[[Any], Any]) -> None:
    edit(place / CHECKPOINT / "state.json", change)
    assert "state.json" in run(*RESUME)


def test_a_checkpoint_of_another_run(run, place: Path) -> None:
    state = place / CHECKPOINT / "state.json"
    good = state.read_bytes()
    for name, value in (("seed", 7), ("fold", 3), ("configuration", "3d_lowres"), ("batches_per_epoch", 7)):
        edit(state, lambda values, name=name, value=value: values["settings"].update({name: value}))
        assert "other settings" in run(*RESUME, code=2)
        state.write_bytes(good)
    edit(state, lambda values: values.pop("settings") and None)
    assert "other settings" in run(*RESUME, code=2)
    state.write_bytes(good)
    # Tensors of a network of another plan.
    edit(state, lambda values: values.pop("files") and None)
    tensors = load_file(place / CHECKPOINT / "network.safetensors")
    wider = {name: np.concatenate([tensor, tensor]) for name, tensor in tensors.items()}
    save_file(wider, place / CHECKPOINT / "network.safetensors")
    assert "network.safetensors" in run(*RESUME)


ENDLESS = {
    "lists": b"[" * 200000 + b"]" * 200000,
    "objects": b'{"a":' * 100000 + b"1" + b"}" * 100000,
    "digits": b'{"schema_version": ' + b"9" * 5000 + b"}",
    "bytes": b"\xff\xfe{}",
}


@pytest.mark.parametrize("content", ENDLESS)
def test_json_without_end(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_bytes(ENDLESS[content])
    with pytest.raises(InvalidData, match=r"a\.json: expected valid JSON") as raised:
        read_json(tmp_path / "a.json")
    assert len(str(raised.value)) < 2000


def test_json_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "folder.json").mkdir()
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    found = {"pipe": "no regular", "zero": "no regular", "loop": "symbolic", "folder": "a folder", "huge": "1048576 MB"}
    for name, told in found.items():
        with pytest.raises(InvalidData, match=told):
            read_json(tmp_path / f"{name}.json")


def test_what_a_file_says_does_not_control_a_terminal() -> None:
    error = InvalidData("a.json", "b", "\x1b[2Jgone\nnnbox: all is well", "c")
    assert str(error) == "a.json: expected b; found ?[2Jgone nnbox: all is well. c"
    assert len(InvalidData("a", "b", "x" * 100000, "c").found) < 1100


@pytest.mark.parametrize(
    "chosen", [["../../../etc"], ["3d_fullres__../../x"], ["3d_fullres__relu__relu/.."], ["4d"], ["2d"], []]
)
def test_a_selection_of_what_is_no_model(place: Path, chosen: list[str]) -> None:
    def change(value: Any) -> None:
        value["chosen"] = chosen
        if chosen != ["2d"]:
            value["candidates"][0]["configurations"] = chosen

    edit(place / "ws/models/m/selection.json", change)
    with pytest.raises((InvalidData, UsageError), match="chosen"):
        load_selection(place / "ws/models/m/selection.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda value: value.update(members=[]), "members"),
        (lambda value: value["members"][0].update(weights=[]), "weights"),
        (lambda value: value["members"][0].update(variants=["batch-norm", "no-norm"]), "exclude"),
        (lambda value: value["postprocessing"].update(steps=[[9]]), r"\[9\]"),
        (lambda value: [value], "schema version"),
    ],
)
def test_a_bundle_that_contradicts_itself(place: Path, change: Callable[[Any], Any], named: str) -> None:
    edit(place / BUNDLE / "bundle.json", change)
    with pytest.raises(InvalidData, match=named):
        load_bundle(place / BUNDLE)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda entry: entry.update(patch_size=[1 << 20, 1 << 20, 1 << 20]), "patch_size"),
        (lambda entry: entry["blocks"].update(features=[4, 10**9]), "features"),
        (lambda entry: entry["blocks"].update(encoder_convolutions=[1, 10**9]), "encoder_convolutions"),
        (lambda entry: entry["blocks"].update(decoder_convolutions=[0]), "decoder_convolutions"),
        (lambda entry: entry.update(conv_kernel_sizes=[[3, 3, 10**9], [3, 3, 3]]), "conv_kernel_sizes"),
        (lambda entry: entry.update(conv_kernel_sizes=[[3, 3, 0], [3, 3, 3]]), "conv_kernel_sizes"),
        (lambda entry: entry.update(spacing=[float("nan"), 1, 1]), "spacing"),
    ],
)
def test_a_plan_that_asks_for_everything(place: Path, change: Callable[[Any], Any], named: str) -> None:
    edit(place / STORE / "plan.json", lambda value: change(value["configurations"]["3d_fullres"]))
    with pytest.raises(InvalidData, match=named):
        load_plan(place / STORE / "plan.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda value: value.update(file_ending="/../../../etc/x.nii.gz"), "file_ending"),
        (lambda value: value.update(file_ending=3), "file_ending"),
        (lambda value: value.update(channel_names=["MR"]), "channel_names"),
        (lambda value: value.update(channel_names={"first": "MR"}), "channel_names"),
        (lambda value: value.update(labels=[0, 1]), "labels"),
        (lambda value: value.update(labels={"a": True, "background": 0}), "one integer a label"),
        (lambda value: value.update(labels={f"{n}": n for n in range(300)}), "at most 256"),
        (lambda value: [value], "list"),
    ],
)
def test_a_data_set_that_is_none(place: Path, change: Callable[[Any], Any], named: str) -> None:
    edit(place / "ws/datasets/m/dataset.json", change)
    with pytest.raises(InvalidData, match=named):
        load_dataset(place / "ws/datasets/m")


@pytest.mark.parametrize("name", ["../../evil.nii.gz", "/tmp/evil.nii.gz", "a/b.nii.gz", "..", ".hidden", "a\x00b", ""])
def test_a_prediction_that_would_leave_its_folder(place: Path, name: str) -> None:
    geometry = {
        "shape": [6, 18, 20],
        "spacing": [3, 1, 1],
        "origin": [0, 0, 0],
        "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    }
    record = {"id": "case_0", "group": "case_0", "split": "test", "source_images": ["a"], "geometry": geometry}
    cases = {"schema_version": 1, "challenge": None, "source": "x"}
    for output, refused in (("case_0.nii.gz", False), (name, True)):
        content = {**cases, "cases": [{**record, "header": {}, "output_name": output}]}
        put(place / "ws/datasets/m/cases.json", json.dumps(content).encode())
        if not refused:
            load_dataset(place / "ws/datasets/m")
            continue
        with pytest.raises(InvalidData, match="output_name"):
            load_dataset(place / "ws/datasets/m")


def test_a_store_whose_chunks_are_damaged_ends_training_with_its_name(run, place: Path) -> None:
    for file in (place / STORE / "3d_fullres").rglob("labels.b2nd"):
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        content[60 : middle + 20] = bytes(middle - 40)
        file.write_bytes(content)
    assert "preprocess again" in run(*RESUME)


@pytest.mark.parametrize("name", ["weights.safetensors", "image"])
def test_a_pipe_is_not_waited_for(run, place: Path, name: str) -> None:
    selected = json.loads((place / "ws/models/m/selection.json").read_text())["chosen"][0]
    file = place / f"ws/models/m/{selected}/fold_1/weights.safetensors"
    if name == "image":
        file = place / "ws/datasets/m/imagesTr/case_0_0000.nii.gz"
    file.unlink()
    os.mkfifo(file)
    assert file.name in run(*(RESUME if name == "image" else ["select", "m"]))


def test_a_checkpoint_without_its_state_is_not_passed_over(run, place: Path) -> None:
    state = place / CHECKPOINT / "state.json"
    state.unlink()
    assert "state.json" in run(*RESUME)
    state.symlink_to("/nowhere")
    assert "state.json" in run(*RESUME)
    assert (place / CHECKPOINT / "network.safetensors").is_file()


@pytest.mark.slow
def test_some_damaged_models() -> None:
    counted = faultless_run("mutate_models.py", 40, 20)
    assert sum(row.get("refused", 0) for row in counted["kinds"].values()) > 20
