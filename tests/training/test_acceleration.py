"""When a GPU's half-length numbers and a compiler are used; the GPU itself is pretended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_box.dataset.splits import Fold
from nnunet_box.memory import GIB
from nnunet_box.planning.variant import recipe
from nnunet_box.training import acceleration
from nnunet_box.training.acceleration import Acceleration, compile_obstacle, mixed_precision, room_for_cases
from nnunet_box.training.batches import BatchSource, augments_on_device
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import Trainer
from tests.training.toys import VOLUME, toy_plan

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A card that has bfloat16, with a compiler beside it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * GIB, 24 * GIB))
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(acceleration.shutil, "which", lambda name: name)
    monkeypatch.delenv("CC", raising=False)
    return monkeypatch


def test_bfloat16_is_for_gpus_that_calculate_in_it(gpu: pytest.MonkeyPatch) -> None:
    assert mixed_precision(CUDA) and not mixed_precision(CPU)
    gpu.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert not mixed_precision(CUDA), "slower than float32 where it is emulated"


def test_what_keeps_from_compiling_is_named(gpu: pytest.MonkeyPatch) -> None:
    assert compile_obstacle(CUDA) is None
    assert "on a GPU" in (compile_obstacle(CPU) or "")
    gpu.setenv("CC", "/no/such/compiler")
    gpu.setattr(acceleration.shutil, "which", lambda name: None if "no/such" in name else name)
    assert "compiler" in (compile_obstacle(CUDA) or "")
    gpu.delenv("CC")
    gpu.setattr(acceleration.importlib.util, "find_spec", lambda name: None)
    assert "triton" in (compile_obstacle(CUDA) or "")
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert "older" in (compile_obstacle(CUDA) or "")


def test_cases_get_what_the_network_leaves(gpu: pytest.MonkeyPatch) -> None:
    assert room_for_cases(CUDA, 12, mixed=True) == 14 * GIB
    assert room_for_cases(CUDA, 12, mixed=False) == 8 * GIB
    assert room_for_cases(CUDA, 48, mixed=True) == 0
    assert room_for_cases(CPU, 12, mixed=False) == 0


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, True),
        ({"recipe": recipe(["no-augmentation"])}, True),
        ({"recipe": recipe(["more-augmentation"])}, False),
        ({"previous": Path("before")}, False),
    ],
)
def test_what_the_card_cannot_do_is_augmented_on_the_cpu(changes: dict[str, Any], answer: bool) -> None:
    source = BatchSource(Path(), (), VOLUME, 2, False, 1, 0, 3, **changes)
    assert augments_on_device(source, CUDA) is answer
    assert not augments_on_device(source, CPU)


def test_mixed_precision_keeps_weights_loss_and_gradients_in_float32(tmp_path: Path) -> None:
    settings = TrainingSettings("3d_fullres", 0, device="cpu")
    trainer = Trainer(toy_plan(), tmp_path, Fold(train=["a"], val=["b"]), tmp_path / "fold", settings)
    random = torch.Generator().manual_seed(0)
    image = torch.randn((2, 1, *VOLUME.patch_size), generator=random)
    labels = torch.randint(0, 3, (2, *VOLUME.patch_size), generator=random)
    assert not trainer.step.mixed
    exact = trainer.step.loss(image, labels)
    trainer.step.mixed = True
    kinds = []
    hook = trainer.network.encoder[0][0][2].register_forward_hook(lambda *seen: kinds.append(seen[2].dtype))
    mixed = trainer.step.loss(image, labels)
    hook.remove()
    mixed.backward()
    assert mixed.dtype == torch.float32 and float(mixed.detach()) == pytest.approx(float(exact.detach()), abs=0.02)
    assert float(mixed.detach()) != float(exact.detach())
    assert kinds == [torch.bfloat16], "activations are half as long"
    for parameter in trainer.network.parameters():
        assert parameter.dtype == torch.float32 and parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_what_a_gpu_offers_can_be_turned_off(gpu: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert Acceleration.of(CUDA, full_precision=False, compiled=True) == Acceleration(mixed=True, compiled=True)
    assert Acceleration.of(CUDA, full_precision=True, compiled=False) == Acceleration(mixed=False, compiled=False)
    assert Acceleration.of(CPU, full_precision=False, compiled=True) == Acceleration(mixed=False, compiled=False)
    assert capsys.readouterr().err == "", "nothing that could be better"
    gpu.setattr(acceleration.importlib.util, "find_spec", lambda name: None)
    assert not Acceleration.of(CUDA, full_precision=False, compiled=True).compiled
    assert "triton" in capsys.readouterr().err
    Acceleration.of(CUDA, full_precision=False, compiled=False)
    assert capsys.readouterr().err == "", "nobody asked for it"


def test_settings_reach_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        Acceleration, "of", classmethod(lambda cls, *given: asked.append(given) or cls(mixed=True, compiled=False))
    )
    settings = TrainingSettings("3d_fullres", 0, device="cpu", full_precision=True, compiled=False)
    trainer = Trainer(toy_plan(), tmp_path, Fold(train=["a"], val=["b"]), tmp_path / "fold", settings)
    assert asked == [(CPU, True, False)] and trainer.step.mixed
