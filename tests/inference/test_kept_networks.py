"""Which networks stay loaded from case to case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nnunet_box.bundle import write_bundle
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import write_nifti
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.inference import folder
from nnunet_box.inference.ensemble import InferenceOptions, Member
from nnunet_box.inference.folder import Predictor, exporter, input_cases, predict_folder
from nnunet_box.inference.kept import KeptNetworks
from nnunet_box.inference.openvino_runtime import OpenVinoRuntime
from nnunet_box.network.unet import UNet
from nnunet_box.training.checkpoint import save_weights
from tests.training.toys import VOLUME, toy_plan


class Loads:
    """A way to load networks that notes what was loaded and what gave its memory back."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.released: list[str] = []

    def __call__(self, member: Member, weights: Path) -> Network:
        self.loaded.append(weights.name)
        return Network(weights.name, self)


class Network:
    """Logits 0."""

    def __init__(self, name: str, loads: Loads) -> None:
        self.name, self.loads = name, loads

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros((len(batch), 3, *batch.shape[2:]), np.float32)

    def release(self) -> None:
        self.loads.released.append(self.name)


def files(folder: Path, *sizes: int) -> list[Path]:
    for index, size in enumerate(sizes):
        (folder / f"{index}").write_bytes(bytes(size))
    return [folder / f"{index}" for index in range(len(sizes))]


def test_the_first_that_fit_stay_and_one_has_working_memory(tmp_path: Path) -> None:
    loads = Loads()
    kept = KeptNetworks(loads, most_bytes=100)
    member, weights = Member("3d_fullres", ()), files(tmp_path, 60, 70, 30)
    for _ in range(2):
        for file in weights:
            kept.load(member, file)
    assert loads.loaded == ["0", "1", "2", "1"], "60 and 30 bytes fit into 100"
    assert loads.released == ["0", "2", "0"], "1 was not kept, so nothing of it is"
    kept = KeptNetworks(loads, most_bytes=None)
    assert [kept.load(member, file) is kept.load(member, file) for file in weights] == [True] * 3


@pytest.mark.parametrize(("most", "loads_expected"), [(10**9, 2), (0, 6)])
def test_a_folder_loads_its_ensemble_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, loads_expected: int
) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, UNet(VOLUME, 1, 3))
    bundle = write_bundle(
        tmp_path / "bundle",
        dataset="toy",
        challenge=None,
        plan=toy_plan(),
        weights={"3d_fullres": {0: weights, 1: weights}},
        postprocessing=Postprocessing(steps=()),
    )
    for name in ("a", "b", "c"):
        image = np.random.default_rng(0).random((6, 20, 22)).astype(np.float32) + 0.1
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image, Geometry((6, 20, 22), (1.0, 1.0, 1.0)))
    loads = Loads()
    monkeypatch.setattr(folder, "KEPT_BYTES", most)
    predictor = Predictor(bundle, bundle.ensemble(tmp_path / "bundle"), loads, InferenceOptions(mirroring=False))
    predict_folder(predictor, input_cases(tmp_path / "in", 1, None), tmp_path / "out", exporter(None))
    assert len(loads.loaded) == loads_expected


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_openvino_gives_its_working_memory_back_and_answers_as_before(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, UNet(VOLUME, 1, 3))
    network = OpenVinoRuntime.load(weights, VOLUME, 1, 3)
    batch = np.random.default_rng(0).normal(size=(200, 1, *VOLUME.patch_size)).astype(np.float32)
    before = network(batch)
    full = resident_bytes()
    network.release()
    assert resident_bytes() < full - batch.nbytes
    assert np.array_equal(network(batch), before)
