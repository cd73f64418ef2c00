"""The network is the paper's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Configuration

ANISOTROPIC = Configuration(
    patch_size=(4, 32, 16),
    batch_size=2,
    num_pool_per_axis=(1, 3, 2),
    pool_kernel_sizes=((1, 2, 2), (1, 2, 2), (2, 2, 1)),
    conv_kernel_sizes=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
    spacing=(5.0, 1.0, 1.0),
    median_shape=(4, 30, 16),
    in_plane_augmentation=True,
)
PLANAR = Configuration(
    patch_size=(64, 48),
    batch_size=2,
    num_pool_per_axis=(4, 4),
    pool_kernel_sizes=((2, 2),) * 4,
    conv_kernel_sizes=((3, 3),) * 5,
    spacing=(5.0, 1.0, 1.0),
    median_shape=(4, 60, 44),
    in_plane_augmentation=False,
    axis_order=(0, 1, 2),
)


@pytest.mark.parametrize("configuration", [ANISOTROPIC, PLANAR])
def test_logits_lie_on_the_patch(configuration: Configuration) -> None:
    logits = UNet(configuration, inputs=3, classes=4)(torch.zeros(2, 3, *configuration.patch_size))
    assert logits.shape == (2, 4, *configuration.patch_size)


def test_features_start_at_30_double_and_stop() -> None:
    network = UNet(PLANAR, inputs=1, classes=2)
    widths = [stage[0][0].out_channels for stage in network.encoder]
    assert widths == [30, 60, 120, 240, 480]
    assert ANISOTROPIC.features == (30, 60, 120, 240)


def test_kernels_strides_and_biases() -> None:
    network = UNet(ANISOTROPIC, inputs=1, classes=2)
    assert [stage[0][0].stride for stage in network.encoder] == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 1)]
    assert [stage[1][0].kernel_size for stage in network.encoder] == list(ANISOTROPIC.conv_kernel_sizes)
    assert [up.kernel_size for up in network.upsampling] == [(2, 2, 1), (1, 2, 2), (1, 2, 2)]
    assert all(up.bias is None for up in network.upsampling)
    assert network.head.bias is None
    assert network.encoder[0][0][0].bias is not None


def test_the_norm_is_instance_norm_and_the_slope_leaky() -> None:
    block = UNet(ANISOTROPIC, inputs=1, classes=2).encoder[0][0]
    features = torch.randn(2, 30, 4, 6, 5)
    torch.testing.assert_close(block[1](features), nn.functional.instance_norm(features), atol=1e-5, rtol=1e-5)
    assert block[2].negative_slope == 0.01


def test_a_skip_connection_reaches_the_head() -> None:
    """Silencing the first encoder stage's skip changes the output: it is concatenated, not dropped."""
    torch.manual_seed(0)
    network = UNet(PLANAR, inputs=1, classes=2).eval()
    image = torch.randn(1, 1, *PLANAR.patch_size)
    with torch.no_grad():
        before = network(image)
        network.decoder[-1][0][0].weight[:, 30:] = 0
        assert not torch.allclose(before, network(image))


def test_the_encoder_is_concatenated_to_what_comes_up() -> None:
    network = UNet(ANISOTROPIC, inputs=1, classes=2)
    seen: dict[str, torch.Tensor] = {}
    network.encoder[0].register_forward_hook(lambda module, given, out: seen.update(skip=out.clone()))
    network.upsampling[-1].register_forward_hook(lambda module, given, out: seen.update(up=out.clone()))
    network.decoder[-1].register_forward_hook(lambda module, given, out: seen.update(joined=given[0]))
    network(torch.randn(1, 1, *ANISOTROPIC.patch_size))
    assert torch.equal(seen["joined"], torch.cat([seen["up"], seen["skip"]], 1))


def test_weights_start_as_he_has_them() -> None:
    torch.manual_seed(0)
    network = UNet(ANISOTROPIC, inputs=1, classes=2)
    for convolution in (network.encoder[2][1][0], network.decoder[0][0][0]):
        inputs = convolution.in_channels * convolution.weight[0, 0].numel()
        assert convolution.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / inputs) ** 0.5, rel=0.02)
        assert not convolution.bias.any()
