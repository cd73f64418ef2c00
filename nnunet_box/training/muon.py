"""Muon: momentum whose step is made orthogonal, kernel by kernel, for runs of few updates (Jordan et al. 2024,
"Muon: An optimizer for hidden layers in neural networks").

torch has one for matrices only, and in bfloat16, which a CPU without it emulates slowly; a U-Net's weights are kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
KERNEL_RATE = 7.0
"""Rate of the orthogonal steps, in units of the rate of the parameters that Adam moves."""
ADAM_BETAS = (0.9, 0.99)
EPS = 1e-8
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Steep at zero: five rounds bring every singular value over 0.01 of the largest to between 0.7 and 1.2 (Jordan)."""
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Orthogonal momentum for the convolutions' kernels, Adam without decay for biases, norms and the 1x1 head.

    A kernel (out, in, [z,] y, x) is taken as a matrix of ``out`` rows. Every direction of it moves by the same length,
    whatever the gradient's size, so that a few hundred updates turn all of a kernel and not only what dominates the
    gradient.

    Parameters
    ----------
    network: whose parameters move. rate: Adam's; kernels move at ``KERNEL_RATE`` times it.
    """

    def __init__(self, network: nn.Module, rate: float = 1e-3) -> None:
        kernels: list[Tensor] = []
        others: list[Tensor] = []
        for parameter in network.parameters():
            (kernels if _is_kernel(parameter) else others).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": kernels, "orthogonal": True},
            {"params": others, "orthogonal": False},
        ]
        super().__init__(groups, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            move = self._move_kernel if group["orthogonal"] else self._move_as_adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    move(parameter, group["lr"])

    def _move_kernel(self, kernel: Tensor, rate: float) -> None:
        state = self.state[kernel]
        if not state:
            state["momentum"] = torch.zeros_like(kernel)
        assert kernel.grad is not None
        momentum = state["momentum"].lerp_(kernel.grad, 1 - MOMENTUM)
        # Nesterov: a look ahead along the momentum.
        direction = kernel.grad.lerp(momentum, MOMENTUM).reshape(len(kernel), -1)
        rows, columns = direction.shape
        length = rate * KERNEL_RATE * max(1.0, rows / columns) ** 0.5
        kernel.sub_(orthogonalised(direction).reshape(kernel.shape), alpha=length)

    def _move_as_adam(self, parameter: Tensor, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        gradient = parameter.grad
        assert gradient is not None
        state["step"] += 1
        first, second = ADAM_BETAS
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].lerp_(gradient.square(), 1 - second)
        count = float(state["step"])
        deviation = (square / (1 - second**count)).sqrt_().add_(EPS)
        parameter.addcdiv_(mean, deviation, value=-rate / (1 - first**count))


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix with its singular vectors kept and its singular values brought near 1 (Newton-Schulz iteration).

    The rounds are taken on the Gram matrix, with which every factor commutes, and applied once at the end: kernels have
    ten times as many columns as rows, and each round on them would cost as much as the convolution itself.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide: Tensor = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    gram = wide @ wide.T
    first, third, fifth = QUINTIC
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for number in range(ROUNDS):
        factor = first * identity + third * gram + fifth * gram @ gram
        product = factor @ product
        if number < ROUNDS - 1:
            gram = factor @ gram @ factor
    turned = product @ wide
    return turned.T if tall else turned


def _is_kernel(parameter: Tensor) -> bool:
    """A convolution that looks around itself or changes resolution; the head is 1x1 and turns features into classes."""
    return parameter.ndim > 2 and max(parameter.shape[2:]) > 1
