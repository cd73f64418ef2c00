"""JavaScript that our pages need, shipped with the wheel so that no page asks a network for it.

The files are builds of their authors, byte for byte (``vendored.json``: package, version, digest; ``LICENSES.txt``);
``make web`` writes them.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NIIVUE = FOLDER / "niivue.umd.js"
"""Global ``niivue``."""
D3 = FOLDER / "d3.min.js"
"""Global ``d3``."""
PLOT = FOLDER / "plot.umd.min.js"
"""Global ``Plot``; needs ``d3`` before it."""
