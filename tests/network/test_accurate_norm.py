"""The norm of a large image is exact; torch's own, which is why there is another, is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm, instance_norm

from nnunet_box.network.accurate_norm import accurate_norm

LAST, LAST_3D, FIRST = torch.channels_last, torch.channels_last_3d, torch.contiguous_format


def half_air(shape: tuple[int, ...], memory: torch.memory_format) -> Tensor:
    """Half of each channel nearly constant, as a convolution leaves air that is clipped to one value."""
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    half = shape[-1] // 2
    image[..., :half] = 3 + 0.001 * image[..., :half]
    image += torch.linspace(-3, 3, shape[1]).reshape(-1, *[1] * (len(shape) - 2))
    return image.contiguous(memory_format=memory)


def parameters(channels: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(0.5, 1.5, channels), torch.linspace(-1, 1, channels)


@pytest.mark.parametrize(
    ("shape", "memory"),
    [
        ((1, 4, 64, 128, 128), LAST_3D),
        ((2, 4, 64, 64, 64), FIRST),
        ((3, 6, 500, 300), LAST),
        ((2, 320, 3, 4, 4), LAST_3D),
        ((2, 3, 7, 5), FIRST),
    ],
)
def test_values_and_derivatives_are_those_of_float64(shape: tuple[int, ...], memory: torch.memory_format) -> None:
    weight, bias = parameters(shape[1])
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=memory)
    given = (half_air(shape, memory), weight, bias)
    # Contiguous: on channels-last memory torch 2.13's instance norm has a wrong derivative of a single sample.
    exact = [tensor.double().contiguous().requires_grad_() for tensor in given]
    found = [tensor.requires_grad_() for tensor in given]
    result = accurate_norm(*found, 1e-5)
    expected = instance_norm(exact[0], weight=exact[1], bias=exact[2], eps=1e-5)
    result.backward(gradient)
    expected.backward(gradient.double().contiguous())
    assert result.is_contiguous(memory_format=memory)
    assert float((result - expected).detach().abs().max()) < 5e-6
    for one, other in zip(found, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        assert float((one.grad - other.grad).abs().max() / other.grad.abs().mean()) < 1e-5


def test_torch_s_own_norm_is_still_off() -> None:
    """Where this fails torch has mended it, and ``accurate_norm`` may go."""
    image, (weight, bias) = half_air((1, 4, 64, 128, 128), LAST_3D), parameters(4)
    expected = instance_norm(image.double(), weight=weight.double(), bias=bias.double(), eps=1e-5)
    assert float((group_norm(image, 4, weight, bias, 1e-5) - expected).abs().max()) > 1e-3
