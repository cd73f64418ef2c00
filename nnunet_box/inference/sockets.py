"""The layout of grand-challenge.org: one image in each input socket, one label map in the output socket.

``inputs.json`` lists the sockets of a case with their slugs and places; an image lies alone in its socket's folder,
under any name (grand-challenge.org/documentation/runtime-environment; rse-grand-challenge-forge, example-algorithm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.volumes import is_junk, strip_suffix
from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json
from nnunet_box.inference.folder import Predictor, exporter, predict_folder
from nnunet_box.inference.mounts import check_readable
from nnunet_box.progress import say

INPUTS_FILE = "inputs.json"
IMAGE_SUFFIX = ".mha"
TAKEN_FOR_IMAGES = (".mha", ".mhd", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd")
"""What a platform would try to import from the output socket beside the label map."""


def predict_sockets(
    predictor: Predictor, source: Path, output: Path, channels: Sequence[str], output_socket: str, record: bool = False
) -> dict[str, Any]:
    """Predict the case in the input sockets of ``source``; the output socket below ``output`` then holds one image.

    channels: slugs of the input sockets in the order of the network's channels.

    Raises
    ------
    InvalidData: the sockets are not as the image expects. NnboxError: as ``predict_folder``.
    """
    case = socket_case(source, channels)
    folder = output / "images" / output_socket
    run = predict_folder(predictor, [case], folder, exporter(None), record=record)
    for leftover in sorted(folder.iterdir()):
        if leftover.name != case.output_name and leftover.name.lower().endswith(TAKEN_FOR_IMAGES):
            say(f"{leftover}: removed; the socket takes one file, and this is not of {case.id}")
            leftover.unlink()
    return run


def socket_case(folder: Path, channels: Sequence[str]) -> SourceCase:
    """The case of an ``/input`` folder: for each channel's slug the image in its socket.

    Sockets that no channel asks for are left alone. Where one image is wanted and the case has one image socket, its
    name does not matter.

    Raises
    ------
    InvalidData: ``inputs.json`` is damaged or names a place outside; a socket is missing; it holds no image, several,
    or one of another format.
    """
    check_readable(folder)
    listed = _listed(folder)
    sockets = listed if listed is not None else _found(folder)
    if len(channels) == 1 and len(sockets) == 1 and channels[0] not in sockets:
        (only,) = sockets
        say(f"{folder}: no socket {channels[0]}; the only image is in {only}, and is taken")
        channels = (only,)
    missing = [slug for slug in channels if slug not in sockets]
    if missing:
        source = folder / (INPUTS_FILE if listed is not None else "images")
        fix = "Build the image with the phase's own slugs: --input-socket SLUG, one a channel, in order."
        raise InvalidData(source, f"image sockets {', '.join(channels)}", f"{', '.join(sockets) or 'none'}", fix)
    files = [_only_image(folder, folder / sockets[slug]) for slug in channels]
    name = strip_suffix(files[0])
    return SourceCase(name, name, tuple(map(ChannelFile, files)), output_name=f"{name}{IMAGE_SUFFIX}")


def _listed(folder: Path) -> dict[str, PurePosixPath] | None:
    """Image sockets of ``inputs.json`` with their folders below ``folder``; None where there is no such file."""
    file = folder / INPUTS_FILE
    if not file.exists():
        say(f"{file}: no such file; the folders below images/ are taken for the sockets")
        return None
    value = read_json(file)
    sockets = {}
    for entry in value if isinstance(value, list) else [None]:
        # Called "interface" before 2025.
        socket = (entry.get("socket") or entry.get("interface")) if isinstance(entry, Mapping) else None
        slug = socket.get("slug") if isinstance(socket, Mapping) else None
        if not isinstance(socket, Mapping) or not isinstance(slug, str):
            expected = 'a list of {"socket": {"slug": ..., "relative_path": ...}, ...}'
            raise InvalidData(file, expected, f"{entry if entry is not None else value!r:.80}", "Restore the file.")
        place = str(socket.get("relative_path") or f"images/{slug}")
        path = PurePosixPath(place)
        if path.is_absolute() or ".." in path.parts or "\0" in place:
            raise InvalidData(file, f"a place of {slug} below {folder}", place, "Nothing outside is read; correct it.")
        if path.parts[:1] == ("images",):
            if slug in sockets:
                raise InvalidData(file, "each socket once", f"{slug} twice", "Remove one of them.")
            sockets[slug] = path
    return sockets


def _found(folder: Path) -> dict[str, PurePosixPath]:
    images = folder / "images"
    names = sorted(path.name for path in images.iterdir() if path.is_dir()) if images.is_dir() else []
    return {name: PurePosixPath("images", name) for name in names if not name.startswith(".")}


def _only_image(folder: Path, socket: Path) -> Path:
    """The one image of a socket's folder, which is below ``folder`` whatever links say."""
    check_readable(socket)
    files = sorted(path for path in socket.iterdir() if path.is_file() or path.is_symlink())
    images = [path for path in files if path.name.lower().endswith(IMAGE_SUFFIX) and not is_junk(path)]
    if len(images) != 1:
        names = ", ".join(path.name for path in images or files) or "no file"
        fix = (
            "Keep one." if images else "Images of other formats (.tif, .nii.gz) are not read here; convert it to .mha."
        )
        raise InvalidData(socket, f"one {IMAGE_SUFFIX} image", names, fix)
    if not images[0].resolve().is_relative_to(folder.resolve()):
        found = f"a link to {images[0].readlink() if images[0].is_symlink() else images[0].resolve()}"
        raise InvalidData(images[0], f"an image below {folder}", found, "Put the file itself there.")
    return images[0]
