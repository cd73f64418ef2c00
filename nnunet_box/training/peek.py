"""Looking at losses that a GPU may not have computed yet, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Peek:
    """Means of losses on ``device``. On a GPU each call answers with what the one before asked for: to wait for the
    newest would leave the GPU without work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._asked: tuple[Tensor, torch.cuda.Event] | None = None
        self._known: float | None = None

    def mean(self, losses: Sequence[Tensor]) -> float | None:
        """Of scalars on the device; None where nothing is known yet."""
        if self.device.type != "cuda":
            return float(torch.stack(list(losses)).mean()) if losses else None
        if self._asked is not None and self._asked[1].query():  # type: ignore[no-untyped-call]
            self._known, self._asked = float(self._asked[0]), None
        if losses and self._asked is None:
            answer = torch.empty((), pin_memory=True)
            answer.copy_(torch.stack(list(losses)).mean(), non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self._asked = answer, copied
        return self._known
