"""The program of an image whose network computes for long in a single call, as a large patch does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from nnunet_box.inference import entry, jobs

SIDE = 6000


def slow(member, weights):
    def network(batch: np.ndarray) -> np.ndarray:
        Path(sys.argv[1]).touch()
        matrix = torch.rand(SIDE, SIDE, dtype=torch.float64)
        # One call into the library: no instruction of Python comes between, so no handler of a signal runs.
        torch.linalg.eigvals(matrix)
        return np.zeros((len(batch), 3, *batch.shape[2:]), np.float32)

    return network


if __name__ == "__main__":
    jobs.network_loader = lambda *_: (slow, "a slow one")
    sys.exit(entry.main(sys.argv[2:]))
