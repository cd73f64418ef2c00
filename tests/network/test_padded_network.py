"""Padding channels changes where numbers lie, not what they are."""

from __future__ import annotations

import pytest
import torch

from nnunet_box.network.padded import MULTIPLE, can_be_padded, padded_at_every_resolution
from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.variant import recipe

VOLUME = Configuration(
    patch_size=(8, 16, 16),
    batch_size=2,
    num_pool_per_axis=(2, 3, 3),
    pool_kernel_sizes=((1, 2, 2), (2, 2, 2), (2, 2, 2)),
    conv_kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    spacing=(3.0, 1.0, 1.0),
    median_shape=(8, 16, 16),
    in_plane_augmentation=True,
)
SLICES = Configuration(
    patch_size=(16, 16),
    batch_size=2,
    num_pool_per_axis=(2, 2),
    pool_kernel_sizes=((2, 2), (2, 2)),
    conv_kernel_sizes=((3, 3), (3, 3), (3, 3)),
    spacing=(1.0, 1.0, 1.0),
    median_shape=(10, 20, 20),
    in_plane_augmentation=False,
    axis_order=(0, 1, 2),
)


@pytest.mark.parametrize("configuration", [VOLUME, SLICES])
@pytest.mark.parametrize("variants", [[], ["deep-supervision"], ["relu"]])
def test_outputs_and_gradients_are_those_of_the_network(configuration: Configuration, variants: list[str]) -> None:
    torch.manual_seed(0)
    network = UNet(configuration, 3, 5, recipe(variants)).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    image = torch.randn(2, 3, *configuration.patch_size, dtype=torch.float64)
    gradients = []
    for run in (network.at_every_resolution, lambda given: padded_at_every_resolution(network, given)):
        network.zero_grad()
        outputs = run(image)
        sum((output**2).mean() for output in outputs).backward()
        gradients.append((outputs, [parameter.grad.clone() for parameter in network.parameters()]))
    (plain, plain_gradients), (padded, padded_gradients) = gradients
    assert len(plain) == len(padded)
    for a, b in zip(plain + plain_gradients, padded + padded_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_every_convolution_but_the_first_sees_whole_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    plain = torch.nn.functional.conv3d

    def conv3d(image: torch.Tensor, weight: torch.Tensor, *rest: object) -> torch.Tensor:
        widths.append((image.shape[1], weight.shape[0]))
        return plain(image, weight, *rest)

    monkeypatch.setattr(torch.nn.functional, "conv3d", conv3d)
    padded_at_every_resolution(UNet(VOLUME, 1, 3), torch.randn(1, 1, *VOLUME.patch_size))
    inputs, outputs = zip(*widths, strict=True)
    assert inputs[0] == 1 and outputs[-1] == 3
    assert all(width % MULTIPLE == 0 for width in inputs[1:] + outputs[:-1])
    assert 32 in inputs and 30 not in inputs


@pytest.mark.parametrize(("variants", "answer"), [([], True), (["batch-norm"], False), (["no-norm"], False)])
def test_networks_with_other_norms_are_left_alone(variants: list[str], answer: bool) -> None:
    assert can_be_padded(UNet(SLICES, 1, 2, recipe(variants))) is answer
