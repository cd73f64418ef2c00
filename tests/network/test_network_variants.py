"""What a recipe changes in the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_box.network.unet import UNet, for_device
from nnunet_box.planning.variant import recipe
from tests.network.test_unet import ANISOTROPIC, PLANAR
from tests.training.toys import VOLUME


def kinds(network: UNet) -> set[str]:
    return {type(module).__name__ for module in network.modules() if not list(module.children())}


def test_norm_and_activation_are_exchanged_everywhere() -> None:
    plain = {"Conv3d", "ConvTranspose3d", "InstanceNorm", "LeakyReLU"}
    assert kinds(UNet(ANISOTROPIC, 1, 2)) - {"ModuleList"} == plain
    for names, expected in (
        (["batch-norm"], plain - {"InstanceNorm"} | {"BatchNorm3d"}),
        (["no-norm"], plain - {"InstanceNorm"} | {"Identity"}),
        (["relu"], plain - {"LeakyReLU"} | {"ReLU"}),
    ):
        assert kinds(UNet(ANISOTROPIC, 1, 2, recipe(names))) - {"ModuleList"} == expected


def test_batch_norm_remembers_and_instance_norm_does_not() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 1, *PLANAR.patch_size)
    for names, same in ((["batch-norm"], False), ([], True)):
        network = UNet(PLANAR, 1, 2, recipe(names))
        with torch.no_grad():
            training, evaluating = network.train()(image), network.eval()(image)
        assert torch.allclose(training, evaluating, atol=1e-5) == same


@pytest.mark.parametrize(("configuration", "scales"), [(PLANAR, [1, 2, 4]), (ANISOTROPIC, [1, 2])])
def test_deep_supervision_gives_every_resolution_but_the_coarsest_a_head(configuration, scales) -> None:
    torch.manual_seed(0)
    network = UNet(configuration, 1, 3, recipe(["deep-supervision"])).eval()
    image = torch.randn(1, 1, *configuration.patch_size)
    with torch.no_grad():
        outputs = network.at_every_resolution(image)
        alone = network(image)
    assert [output.shape[1] for output in outputs] == [3] * len(scales)
    rows = configuration.patch_size[-2]
    assert [output.shape[-2] for output in outputs] == [rows // scale for scale in scales]
    assert torch.equal(outputs[0], alone)
    assert len(UNet(configuration, 1, 3).at_every_resolution(image)) == 1


def test_relu_is_initialised_for_its_own_slope() -> None:
    torch.manual_seed(0)
    leaky, plain = UNet(PLANAR, 1, 2), UNet(PLANAR, 1, 2, recipe(["relu"]))
    deviations = [float(network.encoder[3][1][0].weight.detach().std()) for network in (leaky, plain)]
    assert deviations[0] == pytest.approx((2 / 1.0001 / (240 * 9)) ** 0.5, rel=5e-3)
    assert deviations[1] == pytest.approx((2 / (240 * 9)) ** 0.5, rel=5e-3)
    assert isinstance(plain.decoder[0][0][2], nn.ReLU)


@pytest.mark.parametrize(("configuration", "training", "last"), [
    (PLANAR, False, True),
    (PLANAR, True, False),
    (ANISOTROPIC, False, True),
    (ANISOTROPIC, True, False),
    (VOLUME, False, True),
    (VOLUME, True, True),
])  # fmt: skip
def test_channels_are_last_where_that_is_faster(configuration, training, last) -> None:
    network = for_device(UNet(configuration, 1, 3), torch.device("cpu"), training=training)
    kernel = network.encoder[1][0][0].weight
    format_ = torch.channels_last if kernel.ndim == 4 else torch.channels_last_3d
    assert kernel.is_contiguous(memory_format=format_) == last
    assert kernel.is_contiguous() != last
