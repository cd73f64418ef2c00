"""The seam to whatever runs a network."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """A trained network as a function."""

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patches (B, C, [Z,] Y, X) to logits (B, K, [Z,] Y, X)."""
