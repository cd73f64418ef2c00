"""Finding one's way in downloads as they really lie on disks: nested, doubled, renamed, recompressed, littered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nnunet_box.dataset.cases import SourceCase
from nnunet_box.dataset.dataset import plain_folder_cases
from nnunet_box.dataset.volumes import is_junk, is_volume, strip_suffix
from nnunet_box.errors import InvalidData

LEVELS = 4
"""How far below the folder a person gives a layout is looked for."""

CHANNEL_SUFFIX = re.compile(r"_\d{4}$")
SEEN_AT_MOST = 6


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts ``spleen_2`` before ``spleen_10``; ids are unpadded in several challenges."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part)


def children(folder: Path) -> list[Path]:
    """What lies in a folder, without junk, in natural order."""
    return sorted((path for path in folder.iterdir() if not is_junk(path)), key=lambda path: natural_key(path.name))


def folders_below(folder: Path, levels: int = LEVELS) -> Iterator[Path]:
    """``folder`` and the folders below it, the shallowest first; links are followed, junk is not."""
    level = [folder]
    for depth in range(levels + 1):
        yield from level
        if depth < levels:
            level = [path for parent in level for path in children(parent) if path.is_dir()]


def volume_at(path: Path) -> Path | None:
    """The file meant by ``path``: itself, the same name with or without ``.gz``, or the only volume in a folder of that
    name.

    Re-uploads recompress files, and some unpackers make a folder ``x.nii`` with the file inside.
    """
    name = path.name.removesuffix(".gz")
    for candidate in (path, path.with_name(name), path.with_name(f"{name}.gz")):
        if candidate.is_file():
            return candidate
        if candidate.is_dir():
            inside = [file for file in children(candidate) if file.is_file() and is_volume(file)]
            if len(inside) == 1:
                return inside[0]
    return None


def a_few(ids: list[str]) -> str:
    """Three of many names, and how many more, for a message."""
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def describe(folder: Path) -> str:
    """A few names of what lies in a folder, for the message that refuses it."""
    names = [path.name for path in children(folder)]
    if not names:
        return "an empty folder"
    more = f" and {len(names) - SEEN_AT_MOST} more" if len(names) > SEEN_AT_MOST else ""
    return ", ".join(names[:SEEN_AT_MOST]) + more


def require_folder(folder: Path) -> Path:
    """The folder, made absolute.

    Raises
    ------
    InvalidData: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "no such folder"
        raise InvalidData(
            folder, "the folder of an unpacked download", found, "Unpack the archive and give its folder."
        )
    return folder.resolve()


def plain_cases(folder: Path, channels: int) -> tuple[SourceCase, ...] | None:
    """Cases of a folder whose files all carry nnU-Net's channel suffix (``CASE_0000.nii.gz``); None where they do
    not.
    """
    volumes = [path for path in children(folder) if path.is_file() and is_volume(path)]
    if volumes and all(CHANNEL_SUFFIX.search(strip_suffix(path)) for path in volumes):
        return plain_folder_cases(folder, channels)
    return None
