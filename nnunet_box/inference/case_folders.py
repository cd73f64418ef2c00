"""A folder for each case, its channels told apart by the endings of their names (BraTS)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.volumes import is_volume, strip_suffix
from nnunet_box.errors import InvalidData
from nnunet_box.inference.folder import check_cases
from nnunet_box.inference.mounts import check_readable


def case_folders(folder: Path, suffixes: Sequence[str]) -> tuple[SourceCase, ...]:
    """The cases below ``folder``: ``CASE/CASE-t1n.nii.gz`` and so on, channels in the order of ``suffixes``.

    A prediction is called ``CASE.nii.gz``. A case that lacks a channel has fewer of them and is refused when it is
    predicted, so that the others are not.

    Raises
    ------
    InvalidData: no case at all; two files of a case with one ending; the folder is missing or not readable.
    """
    check_readable(folder)
    cases = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = [_channel(place, suffix) for suffix in suffixes]
        channels = tuple(ChannelFile(file) for file in files if file is not None)
        if not channels:
            # Named after its first channel, so that the message says which file is looked for.
            channels = (ChannelFile(place / f"{place.name}-{suffixes[0]}.nii.gz"),)
        cases.append(SourceCase(place.name, place.name, channels, output_name=f"{place.name}.nii.gz"))
    if not cases:
        example = f"CASE/CASE-{suffixes[0]}.nii.gz"
        raise InvalidData(folder, f"a folder for each case ({example})", "no folder", "Mount the folder of the cases.")
    check_cases(cases, folder)
    return tuple(cases)


def _channel(place: Path, suffix: str) -> Path | None:
    """The file of one channel; hyphen or underscore before the ending, capitals as they come."""
    endings = (f"-{suffix}".lower(), f"_{suffix}".lower())
    found = [
        path for path in sorted(place.iterdir()) if is_volume(path) and strip_suffix(path).lower().endswith(endings)
    ]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InvalidData(place, f"one file ending in {suffix}", names, "Keep one.")
    return found[0] if found else None
