"""The optimiser of runs with a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nnunet_box.network.unet import UNet
from nnunet_box.training.checkpoint import load_checkpoint, save_checkpoint
from nnunet_box.training.muon import ADAM_BETAS, EPS, KERNEL_RATE, Muon, orthogonalised
from tests.training.toys import VOLUME


@pytest.mark.parametrize("shape", [(30, 810), (240, 60), (60, 60)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    # A gradient as networks have them: a few directions outweigh the others fiftyfold.
    values = torch.logspace(0, -1.7, min(shape))
    found = orthogonalised(left @ torch.diag(values) @ right)
    kept = left.T @ found @ right.T
    assert torch.allclose(kept, torch.diag(torch.diagonal(kept)), atol=1e-3)
    assert float(torch.diagonal(kept).min()) > 0.5
    assert float(torch.diagonal(kept).max()) < 1.3


def test_what_is_no_kernel_moves_as_with_adam() -> None:
    torch.manual_seed(2)
    ours = nn.Sequential(nn.Conv3d(2, 4, 1), nn.LeakyReLU(), nn.Conv3d(4, 2, 1))
    theirs = nn.Sequential(nn.Conv3d(2, 4, 1), nn.LeakyReLU(), nn.Conv3d(4, 2, 1))
    theirs.load_state_dict(ours.state_dict())
    muon = Muon(ours, rate=1e-2)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=ADAM_BETAS, eps=EPS)
    for _ in range(5):
        image = torch.randn(2, 2, 3, 4, 5)
        for network, optimizer in ((ours, muon), (theirs, adam)):
            optimizer.zero_grad()
            network(image).square().mean().backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_all_kernels_but_the_head_move_along_every_direction_alike() -> None:
    torch.manual_seed(3)
    network = UNet(VOLUME, 1, 3)
    muon = Muon(network, rate=1e-3)
    kernels, others = (group["params"] for group in muon.param_groups)
    names = {id(value): name for name, value in network.named_parameters()}
    assert all(value.ndim == 5 for value in kernels)
    assert "head.weight" in {names[id(value)] for value in others}
    assert len(kernels) + len(others) == len(names)
    before = [value.detach().clone() for value in kernels]
    network(torch.randn(1, 1, *VOLUME.patch_size)).square().mean().backward()
    muon.step()
    for value, old in zip(kernels, before, strict=True):
        moved = (value.detach() - old).flatten(1)
        rows, columns = moved.shape
        # The gradient of a first layer of one channel has fewer directions than rows.
        longest = float(torch.linalg.matrix_norm(moved, ord=2))
        assert 0.6 < longest / (1e-3 * KERNEL_RATE * max(1.0, rows / columns) ** 0.5) < 1.3


def test_a_restored_run_takes_the_same_steps(tmp_path: Path) -> None:
    torch.manual_seed(4)
    batches = torch.randn(4, 1, 1, *VOLUME.patch_size)

    def advance(network: UNet, optimizer: Muon, batches: Tensor) -> None:
        for batch in batches:
            optimizer.zero_grad()
            network(batch).square().mean().backward()
            optimizer.step()

    whole = UNet(VOLUME, 1, 3)
    first = Muon(whole)
    advance(whole, first, batches[:2])
    save_checkpoint(tmp_path / "checkpoint", whole, first, {})
    advance(whole, first, batches[2:])
    resumed = UNet(VOLUME, 1, 3)
    second = Muon(resumed)
    load_checkpoint(tmp_path / "checkpoint", resumed, second)
    advance(resumed, second, batches[2:])
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
