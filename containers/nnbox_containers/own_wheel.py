"""The wheel of this very program, packed from the installed packages: no sources, no build tool, no network."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from nnunet_box.errors import NnboxError

DISTRIBUTION = "nnunet_box"
PACKAGES = ("nnunet_box", "nnbox_challenges", "nnbox_containers")
LEFT_OUT = frozenset({"nnunet_box/web"})
"""Folders an image has no use for: the scripts of our pages, 3 MB."""
# The earliest time a zip can hold; a wheel of the same files is then the same bytes, and an engine's cache hits.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
FILE_MODE = 0o644
LICENCE = "licenses/LICENSE"
WHEEL_FILE = "Wheel-Version: 1.0\nGenerator: nnunet_box\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def own_wheel() -> tuple[str, bytes]:
    """Name and bytes of the wheel of the running nnunet_box, installed regularly or editable.

    Holds the three packages, but for ``LEFT_OUT``, and the installed metadata, with the entry points (which lead to the
    adapters) and licence.
    RECORD carries the SHA-256 of every file, as the wheel format (PEP 427) asks.

    Raises
    ------
    NnboxError: the program runs from a folder without being installed, so there is no metadata to pack.
    """
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise NnboxError(f"{DISTRIBUTION} is not installed, so it cannot be packed: python -m pip install .") from error
    stem = f"{DISTRIBUTION}-{installed.version}"
    files = dict(_package_files()) | dict(_metadata_files(installed, f"{stem}.dist-info"))
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in sorted(files.items())]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    return f"{stem}-py3-none-any.whl", _zip(files)


def _package_files() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise NnboxError(f"{package} is missing beside nnunet_box: python -m pip install --force-reinstall .")
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            left_out = f"{package}/{inside.parts[0]}" in LEFT_OUT
            if path.is_file() and not hidden and not left_out:
                yield f"{package}/{inside.as_posix()}", path.read_bytes()


def _metadata_files(installed: Distribution, folder: str) -> Iterator[tuple[str, bytes]]:
    yield f"{folder}/WHEEL", WHEEL_FILE.encode()
    for name in ("METADATA", "entry_points.txt", LICENCE):
        if (text := installed.read_text(name)) is not None:
            yield f"{folder}/{name}", text.encode()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # The metadata last, as the format recommends.
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = FILE_MODE << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()
