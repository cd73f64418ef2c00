"""How much work a training step is, counted and not timed: passes of the network, waits for the device, bytes of the
loss, files opened.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunet_box.dataset.splits import Fold
from nnunet_box.preprocessing.store import StoredCase
from nnunet_box.training import batches as batches_module
from nnunet_box.training.batches import Key, batch_loader
from nnunet_box.training.loss import SMOOTH, segmentation_loss, soft_dice
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import Trainer
from tests.training.toys import toy_plan, toy_store

WAITS = "aten._local_scalar_dense"
"""What a tensor's value goes to Python by: on a GPU, everything waits for it."""
BYTES_OF_LOSS = 43
"""Of loss and gradient together, a voxel and class: what every operation allocates, summed. Softmax and its logarithm,
their gradients, products; 37 to 41 measured, 48 to 52 with labels one-hot in int64."""


class Counted(TorchDispatchMode):
    """Calls of every operation, and bytes of the storages they allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.allocated = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.calls[str(operation).rpartition(".")[0]] += 1
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self.allocated += leaf.untyped_storage().nbytes()
        return result


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fold]:
    folder = tmp_path_factory.mktemp("store")
    names = toy_store(folder, 5)
    return folder, Fold(train=names[:4], val=names[4:])


def numbers() -> Iterator[Key]:
    return ((0, number) for number in itertools.count())


def trainer_of(store: tuple[Path, Fold], folder: Path, budget: float | None) -> Trainer:
    settings = TrainingSettings("3d_fullres", 0, budget_seconds=budget, workers=0, device="cpu")
    return Trainer(toy_plan(), store[0], store[1], folder, settings)


@pytest.mark.parametrize("budget", [None, 1e9], ids=["paper", "budget"])
def test_an_epoch_waits_for_the_device_once_and_passes_each_batch_once(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float | None
) -> None:
    trainer = trainer_of(store, tmp_path, budget)
    passes = []
    whole = trainer.network.at_every_resolution
    monkeypatch.setattr(trainer.network, "at_every_resolution", lambda image: passes.append(1) or whole(image))
    # An optimiser keeps its step's number on the CPU and reads it there.
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
    made = list(itertools.islice(batch_loader([trainer._source(0)], numbers(), 0, trainer.device), 4))
    with Counted() as counted:
        trainer._train_epoch(iter(made), 4)
    assert counted.calls[WAITS] == 1, "the mean loss of the epoch, at its end"
    assert len(passes) == 4
    convolutions = sum(isinstance(module, torch.nn.Conv3d) for module in trainer.network.modules())
    ups = sum(isinstance(module, torch.nn.ConvTranspose3d) for module in trainer.network.modules())
    assert counted.calls["aten.convolution"] == 4 * (convolutions + ups)
    assert counted.calls["aten.convolution_backward"] == 4 * (convolutions + ups)


def test_a_case_is_opened_once_however_many_batches_are_made(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[str] = Counter()
    open_case = batches_module.open_case

    def counting(folder: Path, case_id: str) -> StoredCase:
        opened[case_id] += 1
        return open_case(folder, case_id)

    monkeypatch.setattr(batches_module, "open_case", counting)
    source = trainer_of(store, tmp_path, None)._source(0)
    for _ in itertools.islice(batch_loader([source], numbers(), 0, torch.device("cpu")), 12):
        pass
    assert opened == dict.fromkeys(store[1].train, 1)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("classes", [3, 14])
def test_the_loss_allocates_few_bytes_a_voxel_and_class(
    batch_dice: bool, layout: torch.memory_format, classes: int
) -> None:
    logits = torch.randn(2, classes, 12, 16, 16).contiguous(memory_format=layout).requires_grad_()
    labels = torch.randint(0, classes, (2, 12, 16, 16))
    with Counted() as counted:
        segmentation_loss(logits, labels, batch_dice).backward()  # type: ignore[no-untyped-call]
    assert counted.allocated <= BYTES_OF_LOSS * logits.numel()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_soft_dice_and_its_gradient_are_those_of_one_hot_labels(batch_dice: bool) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, 7, generator=random, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 3, (3, 5, 6, 7), generator=random)
    truth = functional.one_hot(labels, 4).movedim(-1, 1).double()
    probabilities = torch.softmax(logits, 1)
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    overlap, mass = (probabilities * truth).sum(axes), (probabilities + truth).sum(axes)
    expected = ((2 * overlap + SMOOTH) / (mass + SMOOTH))[..., 1:].mean()
    found = soft_dice(probabilities, labels, batch_dice)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (wanted,), (given,) = (torch.autograd.grad(value, logits, retain_graph=True) for value in (expected, found))
    torch.testing.assert_close(given, wanted, rtol=1e-9, atol=1e-15)
