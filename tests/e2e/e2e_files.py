"""What the tests of this folder ask of files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

PICKLED_NAMES = (".pkl", ".pickle", ".pt", ".pth", ".model", ".npy", ".npz")
ZIP, PICKLE_PROTOCOLS = b"PK\x03\x04", tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def same_grid(labels: Path, source: Path) -> None:
    """Assert that a label map is uint8 without scaling and lies exactly as its source does, header field by field."""
    image, original = nibabel.load(labels), nibabel.load(source)
    assert image.get_data_dtype() == np.uint8
    assert image.shape == original.shape[:3]
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    for name in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert np.array_equal(image.header[name], original.header[name]), name
    assert np.array_equal(image.header["pixdim"][:4], original.header["pixdim"][:4])


def pickles(folder: Path) -> list[Path]:
    """Files whose name or first bytes are those of a pickle or of torch's zip of pickles."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                start = stream.read(4)
            if path.suffix in PICKLED_NAMES or start == ZIP or start[:2] in PICKLE_PROTOCOLS:
                found.append(path)
    return found
