"""How long a process took from its start to the first window it predicted."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_box.inference.ensemble import LoadNetwork, Member
from nnunet_box.inference.runtime import Runtime

STATUS = Path("/proc/self/stat")
AFTER_NAME_START_TIME = 19
"""Place of the start time among the fields that follow the command's name (proc(5): field 22 of the line)."""


def process_age() -> float | None:
    """Seconds since this process was started, imports included; None where the system does not tell."""
    try:
        fields = STATUS.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        ticks = int(fields[AFTER_NAME_START_TIME])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return None


@dataclass
class FirstWindow:
    """A way to load networks that notes how old the process was when the first one was called.

    seconds: None before that, and where the system does not tell.
    """

    load_network: LoadNetwork
    seconds: float | None = None
    called: bool = False

    def load(self, member: Member, weights: Path) -> Runtime:
        """As ``load_network``."""
        network = self.load_network(member, weights)
        return network if self.called else self._noting(network)

    def _noting(self, network: Runtime) -> Runtime:
        def call(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            if not self.called:
                self.called, self.seconds = True, process_age()
            return network(batch)

        return call
