"""The lock of an image: every distribution at one version, each wheel by its hash, so that pip installs no other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from nnbox_containers.wheelhouse import Pin

CHUNK_BYTES = 1 << 20


def wheel_sha256(wheel: Path) -> str:
    """Hex digest of a wheel, read in pieces."""
    digest = hashlib.sha256()
    with wheel.open("rb") as stream:
        while piece := stream.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def wheel_of(pin: Pin, wheels: Sequence[Path]) -> Path | None:
    """The wheel of a pin; None where it is yet to be fetched."""
    for wheel in wheels:
        if wheel.is_file() and parse_wheel_filename(wheel.name)[0] == canonicalize_name(pin.name):
            return wheel
    return None


def locked_requirements(pins: Sequence[Pin], wheels: Sequence[Path]) -> str:
    """The text of ``requirements.txt`` for ``pip install --require-hashes``.

    A pin whose wheel is not here has no hash; pip would refuse it, and a dry run shows it.
    """
    lines = []
    for pin in pins:
        wheel = wheel_of(pin, wheels)
        lines.append(f"{pin}\n" if wheel is None else f"{pin} --hash=sha256:{wheel_sha256(wheel)}\n")
    return "".join(lines)
