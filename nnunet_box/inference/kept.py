"""Networks that stay loaded from one case to the next, as far as memory allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_box.inference.ensemble import LoadNetwork, Member
from nnunet_box.inference.runtime import Releasing, Runtime

KEPT_BYTES = 250_000_000
"""Of weights' files. A network that OpenVINO has compiled and run takes about three times its file."""


@dataclass
class KeptNetworks:
    """A way to load networks that keeps the first ones whose files are at most ``most_bytes`` together, all of them
    where it is None, and loads the others anew each time. Only the network handed out last keeps its working memory.
    """

    load_network: LoadNetwork
    most_bytes: int | None = KEPT_BYTES
    _kept: dict[tuple[Member, Path], Runtime] = field(default_factory=dict)
    _bytes: int = 0
    _last: Runtime | None = None

    def load(self, member: Member, weights: Path) -> Runtime:
        """As ``load_network``."""
        network = self._kept.get((member, weights))
        if self._last is not None and self._last is not network and isinstance(self._last, Releasing):
            self._last.release()
        self._last = None
        if network is None:
            network = self.load_network(member, weights)
            size = weights.stat().st_size if weights.is_file() else 0
            if self.most_bytes is None or self._bytes + size <= self.most_bytes:
                self._kept[member, weights] = network
                self._bytes += size
        if (member, weights) in self._kept:
            self._last = network
        return network
