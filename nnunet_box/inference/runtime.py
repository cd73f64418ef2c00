"""The seam to whatever runs a network."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """A trained network as a function."""

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patches (B, C, [Z,] Y, X) to logits (B, K, [Z,] Y, X), an array that the caller may change."""


@runtime_checkable
class Releasing(Protocol):
    """A runtime that keeps working memory between calls."""

    def release(self) -> None:
        """Give it back; the next call takes it again."""
