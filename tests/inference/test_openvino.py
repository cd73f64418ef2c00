"""OpenVINO runs the plan's network as torch does, with the same weights' file, and without a word to anybody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nnunet_box.errors import InvalidData
from nnunet_box.inference.openvino_runtime import OpenVinoRuntime, cpu_properties, openvino
from nnunet_box.inference.torch_runtime import TorchRuntime
from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Blocks, Configuration
from nnunet_box.planning.variant import recipe

VOLUME = Configuration(
    patch_size=(8, 16, 16),
    batch_size=2,
    num_pool_per_axis=(1, 2, 2),
    pool_kernel_sizes=((1, 2, 2), (2, 2, 2)),
    conv_kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    spacing=(3.0, 1.0, 1.0),
    median_shape=(8, 16, 16),
    in_plane_augmentation=True,
)
SLICE = Configuration(
    patch_size=(32, 16),
    batch_size=2,
    num_pool_per_axis=(3, 2),
    pool_kernel_sizes=((2, 2), (2, 2), (2, 1)),
    conv_kernel_sizes=((3, 3),) * 4,
    spacing=(3.0, 1.0, 1.0),
    median_shape=(8, 32, 16),
    in_plane_augmentation=True,
    axis_order=(0, 1, 2),
)
DEEP = VOLUME.model_copy(
    update={
        "patch_size": (16, 32, 32),
        "num_pool_per_axis": (3, 4, 4),
        "pool_kernel_sizes": ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        "conv_kernel_sizes": ((1, 3, 3), *((3, 3, 3),) * 4),
    }
)
IMPORTED = VOLUME.model_copy(
    update={
        "blocks": Blocks(
            features=(16, 32, 48), encoder_convolutions=(1, 3, 2), decoder_convolutions=(2, 1), biases=True
        )
    }
)
RELATIVE = 1e-4


def trained(configuration: Configuration, inputs: int, classes: int, variants: tuple[str, ...]) -> UNet:
    """A network none of whose parameters has the value it is made with."""
    torch.manual_seed(len(variants) + inputs)
    network = UNet(configuration, inputs, classes, recipe(variants)).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 1:
                noise = torch.randn_like(value)
                value += noise.abs() if name.endswith("running_var") else 0.3 * noise
    return network


def written(folder: Path, network: UNet) -> Path:
    file = folder / "w.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    return file


CASES = [
    (VOLUME, 1, 3, ()),
    (SLICE, 2, 4, ()),
    (DEEP, 1, 2, ()),
    (VOLUME, 1 + 2, 3, ()),  # a cascade: the labels of the first stage follow the image
    (VOLUME, 1, 3, ("batch-norm",)),
    (SLICE, 1, 3, ("batch-norm", "relu")),
    (VOLUME, 1, 3, ("no-norm",)),
    (VOLUME, 1, 3, ("relu",)),
    (DEEP, 2, 3, ("deep-supervision", "sgd-poly")),
    (IMPORTED, 1, 3, ()),
]


@pytest.mark.parametrize(("configuration", "inputs", "classes", "variants"), CASES)
def test_logits_are_torchs(tmp_path, configuration, inputs, classes, variants):
    file = written(tmp_path, trained(configuration, inputs, classes, variants))
    ours = OpenVinoRuntime.load(file, configuration, inputs, classes, recipe(variants), threads=1)
    theirs = TorchRuntime.load(file, configuration, inputs, classes, torch.device("cpu"), recipe(variants))
    random = np.random.default_rng(3)
    # The number of patches changes from call to call: the last group of windows is smaller.
    for batch in (2, 1, 3):
        patches = random.normal(size=(batch, inputs, *configuration.patch_size)).astype(np.float32)
        expected = theirs(patches)
        found = ours(patches)
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max()


LARGE = VOLUME.model_copy(
    update={
        "patch_size": (64, 128, 74),
        "num_pool_per_axis": (1, 1, 1),
        "pool_kernel_sizes": ((2, 2, 2),),
        "conv_kernel_sizes": ((1, 1, 1), (1, 1, 1)),  # or float64 would take 15 GB
    }
)


def test_both_runtimes_are_exact_on_a_large_window_that_is_half_air(tmp_path):
    """A million voxels a channel, half of them one value: sums taken number by number leave logits 1 % off."""
    network = trained(LARGE, 1, 3, ())
    file = written(tmp_path, network)
    window = np.random.default_rng(0).normal(size=(1, 1, *LARGE.patch_size)).astype(np.float32)
    window[..., :50] = -3.3
    with torch.inference_mode():
        exact = network.double()(torch.from_numpy(window).double()).numpy()
    for runtime in (
        OpenVinoRuntime.load(file, LARGE, 1, 3, threads=1),
        TorchRuntime.load(file, LARGE, 1, 3, torch.device("cpu")),
    ):
        assert np.abs(runtime(window) - exact).max() <= RELATIVE * np.abs(exact).max()


def test_a_result_is_kept_when_the_next_is_computed(tmp_path):
    file = written(tmp_path, trained(VOLUME, 1, 3, ()))
    network = OpenVinoRuntime.load(file, VOLUME, 1, 3, threads=1)
    zeros = np.zeros((1, 1, 8, 16, 16), np.float32)
    ones = np.random.default_rng(0).random((1, 1, 8, 16, 16), np.float32)
    first = network(zeros)
    kept = first.copy()
    network(ones)
    assert (first == kept).all()
    # Mirrored windows are views with negative steps.
    assert np.allclose(network(np.flip(ones, 4)), network(np.flip(ones, 4).copy()))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda state: state.pop("decoder.1.1.0.weight"), "none"),
        (lambda state: state.update({"encoder.0.0.0.weight": torch.zeros(30, 2, 1, 3, 3)}), r"\(30, 2, 1, 3, 3\)"),
        (lambda state: state.update({"encoder.0.2.0.weight": torch.zeros(30, 30, 1, 3, 3)}), r"encoder\.0\.2\.0"),
        (lambda state: state.update({"encoder.0.0.1.running_mean": torch.zeros(30)}), "running_mean"),
        (lambda state: state.pop("head.weight"), "none"),
        (lambda state: state.update({"head.bias": torch.zeros(3)}), r"head\.bias"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, found):
    state = trained(VOLUME, 1, 3, ()).state_dict()
    change(state)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors")
    for load in (
        lambda file: OpenVinoRuntime.load(file, VOLUME, 1, 3, threads=1),
        lambda file: TorchRuntime.load(file, VOLUME, 1, 3, torch.device("cpu")),
    ):
        with pytest.raises(InvalidData) as refusal:
            load(tmp_path / "w.safetensors")
        assert refusal.value.file == tmp_path / "w.safetensors"
    with pytest.raises(InvalidData, match=found):
        OpenVinoRuntime.load(tmp_path / "w.safetensors", VOLUME, 1, 3, threads=1)


def test_missing_and_damaged_weights_are_named(tmp_path):
    with pytest.raises(InvalidData, match=r"no\.safetensors"):
        OpenVinoRuntime.load(tmp_path / "no.safetensors", VOLUME, 1, 3)
    (tmp_path / "cut.safetensors").write_bytes(written(tmp_path, trained(VOLUME, 1, 3, ())).read_bytes()[:-8])
    with pytest.raises(InvalidData, match=r"cut\.safetensors"):
        OpenVinoRuntime.load(tmp_path / "cut.safetensors", VOLUME, 1, 3)


def test_single_precision_is_asked_for_and_given(tmp_path):
    properties = cpu_properties(1)
    assert properties["INFERENCE_PRECISION_HINT"] == "f32"
    network = OpenVinoRuntime.load(written(tmp_path, trained(VOLUME, 1, 3, ())), VOLUME, 1, 3, threads=1)
    compiled = network._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_importing_tells_nobody():
    program = (
        "import sys, socket\n"
        "def refuse(*a, **k): raise SystemExit('a connection is made')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from nnunet_box.inference.openvino_runtime import openvino\n"
        "openvino().Core()\n"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = json.loads(ended.stdout)
    assert "openvino" in modules
    assert not [name for name in modules if name.startswith(("openvino_telemetry", "openvino.tools", "torch"))]


def test_the_block_is_lifted_once_it_is_imported():
    openvino()
    assert sys.modules.get("openvino_telemetry", "absent") is not None
