"""The case store: preprocessed cases, chunked near the patch size and compressed, so that reading a patch reads a
patch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nnunet_box.arrays import open_array
from nnunet_box.disk import hidden_disk_errors
from nnunet_box.errors import InvalidData
from nnunet_box.files import link_or_copy
from nnunet_box.preprocessing.pipeline import PreparedCase

IMAGE = "image.b2nd"
AGAIN = "Delete the case's folder and run nnbox preprocess again."
MOST_LOCATIONS = 10_000
LEAST_SHARE = 0.01
SEED = 1234
"""Per class at most 10,000 foreground locations, but at least 1 % of its voxels (nnU-Net's later code; the paper is
silent)."""
COMPRESSION_LEVEL = 5
BLOCK_EDGES = {2: 128, 3: 32}
"""A chunk is compressed block by block, and the blocks that a patch touches are read: cubes, or squares of a slice,
where blosc2 would choose planes. So, and with LZ4, a patch is read in a sixth of the time that Zstandard in planes
takes, for a quarter more of disk (``benchmarks/store_reading.py``)."""


@dataclass(frozen=True)
class StoredCase:
    """An open case. image: lazy (C, Z, Y, X) float32; labels: lazy (Z, Y, X) int8; locations: label to (n, 3) voxels
    (z, y, x). previous: for a cascade, the first stage's label map, lazy (Z, Y, X) int8.
    """

    id: str
    image: Any
    labels: Any
    locations: dict[int, NDArray[np.int32]]
    previous: Any = None

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = self.labels.shape
        return (int(z), int(y), int(x))


def compression(chunk: tuple[int, ...]) -> dict[str, Any]:
    """How an array of the store with chunks of that shape ([C,] Z, Y, X) is compressed, for ``blosc2.asarray``."""
    import blosc2

    edge = BLOCK_EDGES[2 if chunk[-3] == 1 else 3]
    return {
        "blocks": tuple(min(length, edge) for length in chunk),
        "cparams": {"codec": blosc2.Codec.LZ4, "clevel": COMPRESSION_LEVEL, "nthreads": 1},
    }


def class_locations(labels: NDArray[np.int8]) -> dict[int, NDArray[np.int32]]:
    """Voxels (z, y, x) of each foreground label, drawn without replacement where there are many."""
    random = np.random.default_rng(SEED)
    found = {}
    for value in np.unique(labels):
        if value <= 0:
            continue
        voxels = np.flatnonzero(labels == value)
        keep = max(MOST_LOCATIONS, int(np.ceil(LEAST_SHARE * len(voxels))))
        if len(voxels) > keep:
            voxels = voxels[np.sort(random.choice(len(voxels), keep, replace=False))]
        found[int(value)] = np.stack(np.unravel_index(voxels, labels.shape), axis=1).astype(np.int32)
    return found


def most_bytes(voxels: int, channels: int, classes: int) -> int:
    """What a stored case of so many voxels takes at most: with noise for an image, which hardly compresses.

    classes: foreground labels.
    """
    locations = min(voxels, classes * MOST_LOCATIONS + int(LEAST_SHARE * voxels))
    return voxels * (4 * channels + 1) + locations * 3 * 4


def chunk_shape(patch: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels (z, y, x) of a chunk: the patch's, one slice for a patch of two axes, no more than the case has."""
    edges = (1, *patch) if len(patch) == 2 else patch
    return tuple(min(edge, size) for edge, size in zip(edges, shape, strict=True))


def write_case(
    folder: Path, case_id: str, prepared: PreparedCase, patch: tuple[int, ...], shared_image: Path | None = None
) -> None:
    """Write one case as a folder ``<case>/`` of ``image.b2nd``, ``labels.b2nd`` and ``locations.safetensors`` into
    ``folder``: one of ``fill_beside``, which puts it into the store as a whole.

    shared_image: the stored image of a case whose image this one shares; it is linked, not written again.

    Raises
    ------
    OSError: the disk is full or the folder cannot be written.
    """
    # Here, as it takes longer to load than all else together, and only workers write and read cases.
    import blosc2

    assert prepared.labels is not None
    chunk = chunk_shape(patch, prepared.labels.shape)
    place = folder / case_id
    with hidden_disk_errors(folder):
        place.mkdir(parents=True)
        arrays: list[tuple[str, NDArray[Any], tuple[int, ...]]] = [("labels", prepared.labels, chunk)]
        if shared_image is None:
            arrays.append(("image", prepared.image, (1, *chunk)))
        else:
            link_or_copy(shared_image, place / IMAGE)
        for name, array, chunks in arrays:
            blosc2.asarray(
                np.ascontiguousarray(array),
                urlpath=str(place / f"{name}.b2nd"),
                chunks=chunks,
                **compression(chunks),
            )
        locations = {str(value): voxels for value, voxels in class_locations(prepared.labels).items()}
        save_file(locations, place / "locations.safetensors", metadata={"case": json.dumps(case_id)})


def has_case(folder: Path, case_id: str) -> bool:
    """Whether the case is in the store."""
    return (folder / case_id / "locations.safetensors").is_file()


def open_case(folder: Path, case_id: str) -> StoredCase:
    """Open a stored case for reading patches.

    Raises
    ------
    InvalidData: it is not there or cannot be opened.
    """
    place = folder / case_id
    image = open_array(place / IMAGE, "a preprocessed image (C, Z, Y, X)", 4, AGAIN, threads=1)
    labels = open_array(place / "labels.b2nd", "preprocessed labels (Z, Y, X)", 3, AGAIN, threads=1)
    if image.shape[1:] != labels.shape:
        raise InvalidData(place, f"labels of shape {image.shape[1:]} as the image", f"{labels.shape}", AGAIN)
    try:
        locations = {int(value): voxels for value, voxels in load_file(place / "locations.safetensors").items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise InvalidData(place / "locations.safetensors", "voxels of each label", str(error), AGAIN) from error
    for value, voxels in locations.items():
        inside = voxels.ndim == 2 and voxels.shape[1] == 3 and voxels.dtype.kind in "iu" and len(voxels) > 0
        if not inside or (voxels < 0).any() or (voxels >= labels.shape).any():
            found = f"{voxels.dtype} of shape {voxels.shape}, or voxels outside {labels.shape}"
            raise InvalidData(place / "locations.safetensors", f"(n, 3) voxels of label {value}", found, AGAIN)
    return StoredCase(case_id, image, labels, locations)
