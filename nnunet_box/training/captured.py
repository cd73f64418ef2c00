"""Loss and gradients of a batch as one CUDA graph: hundreds of kernels for one launch, so that a CPU keeps up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM_UP = 3
"""Steps before capturing: kernels are compiled and chosen in them."""
AHEAD = 3
"""Steps that may wait in the device's queue: it never runs dry, and the clock and memory stay near what is done."""


class CapturedStep:
    """Gradients of ``loss_of(image, labels)`` in ``network``'s parameters, for batches of the shapes first given.

    The gradients' memory is the graph's: they must not be set to None, and each call overwrites them.
    """

    def __init__(
        self, loss_of: Callable[[Tensor, Tensor], Tensor], network: nn.Module, image: Tensor, labels: Tensor
    ) -> None:
        self.image, self.labels = image.clone(), labels.clone()
        self.issued: deque[torch.cuda.Event] = deque()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                network.zero_grad(set_to_none=True)
                loss_of(self.image, self.labels).backward()  # type: ignore[no-untyped-call]
        torch.cuda.current_stream().wait_stream(aside)
        network.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            loss = loss_of(self.image, self.labels)
            loss.backward()  # type: ignore[no-untyped-call]
        self.loss = loss.detach()

    def __call__(self, image: Tensor, labels: Tensor) -> Tensor:
        """The batch's loss, a scalar on the device; nothing waits for it."""
        if len(self.issued) == AHEAD:
            self.issued.popleft().synchronize()
        self.image.copy_(image)
        self.labels.copy_(labels)
        self.graph.replay()
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        self.issued.append(done)
        return self.loss.clone()
