"""Tiny PROMISE12 downloads: text headers, each case with an oddity of its own, junk beside them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SIZE = (6, 7, 9)
"""(X, Y, Z), all different, so that a swapped axis shows; nine slices give thirds."""

ODDITIES = {
    0: {},
    1: {"CompressedData": "True"},
    2: {"BinaryDataByteOrderMSB": "True"},
    3: {
        "TransformMatrix": "0.98006657784124163 0.19866933079506122 0 -0.19866933079506122 0.98006657784124163 0 0 0 1"
    },
    4: {"TransformMatrix": "1 0 0 0 1 0 0 0 -1", "Offset": "-96.000001 12.500000000000071 4.4e1"},
    5: {"ElementSpacing": "0.62500000000000011 0.62500000000000011 3.5999999046325684"},
    6: {"ElementType": "MET_USHORT", "CenterOfRotation": None, "AnatomicalOrientation": None},
    7: {"Offset": None, "Position": "-7 8 9.25"},
    8: {"line": "\r\n"},
    9: {"ElementType": "MET_FLOAT"},
}
"""What the image's header of a case says otherwise, by the case's last digit."""

DTYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_FLOAT": "f4"}


def image_voxels(part: str, number: int) -> np.ndarray:
    """(Z, Y, X), different for each case of each part."""
    seed = ("train", "test", "live").index(part) * 100 + number
    return np.random.default_rng(seed).integers(0, 900, SIZE[::-1])


def label_voxels(part: str, number: int) -> np.ndarray:
    """(Z, Y, X): a gland from slice 1 to 7 that is not symmetric along any axis."""
    labels = np.zeros(SIZE[::-1], np.uint8)
    labels[1:8, 2:6, 1:4] = 1
    labels[1:4, 1, 2] = 1
    labels[6, 5, 4] = 1
    labels[4, 3, 2 + number % 2] = 0 if part == "train" else 1
    return labels


def write_mhd(path: Path, voxels: np.ndarray, element: str = "MET_SHORT", **changes: str | None) -> Path:
    """``path`` and its voxels; ``changes`` replace header lines, None removes one, ``line`` is the line's end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    end = changes.pop("line", "\n") or "\n"
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "-96 -96 -40.25",
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": "0.625 0.75 3.6",
        "DimSize": " ".join(str(length) for length in voxels.shape[::-1]),
        "ElementType": element,
        **changes,
    }
    compressed = lines["CompressedData"] == "True"
    data = path.with_suffix(".zraw" if compressed else ".raw")
    order = ">" if lines["BinaryDataByteOrderMSB"] == "True" else "<"
    content = voxels.astype(np.dtype(DTYPES[str(lines["ElementType"])]).newbyteorder(order)).tobytes()
    data.write_bytes(zlib.compress(content) if compressed else content)
    lines = {key: value for key, value in lines.items() if value is not None} | {"ElementDataFile": data.name}
    path.write_bytes("".join(f"{key} = {value}{end}" for key, value in lines.items()).encode())
    return path


def write_case(folder: Path, part: str, number: int, reference: bool = True) -> Path:
    """One case; its reference's header says another place and another type, as label headers do."""
    image = write_mhd(folder / f"Case{number:02d}.mhd", image_voxels(part, number), **ODDITIES[number % 10])
    if reference:
        oddities = {**ODDITIES[number % 10], "ElementType": "MET_CHAR" if number % 2 else "MET_UCHAR"}
        write_mhd(folder / f"Case{number:02d}_segmentation.mhd", label_voxels(part, number), **oddities)
    (folder / f"._Case{number:02d}.mhd").write_bytes(b"\x00\x05\x16\x07")
    (folder / ".DS_Store").write_bytes(b"\x00")
    (folder / "Thumbs.db").write_bytes(b"\x00")
    litter = folder / "__MACOSX" / folder.name
    litter.mkdir(parents=True, exist_ok=True)
    (litter / f"Case{number:02d}.mhd").write_bytes(b"\x00\x05\x16\x07")
    return image


def write_cases(folder: Path, part: str, numbers: Iterable[int], reference: bool = True) -> Path:
    for number in numbers:
        write_case(folder, part, number, reference)
    return folder


SHARES = ((0, 1), (2, 13), (28,))
LAYOUTS = {
    "original": ({f"TrainingData_Part{part}": share for part, share in enumerate(SHARES, 1)}, "TestData"),
    "unpacked": ({f"TrainingDataPart{part}": share for part, share in enumerate(SHARES, 1)}, "TestData"),
    "merged": ({"TrainingData": (0, 1, 2, 13, 28)}, "TestData"),
    "authors": ({"train": (0, 1, 2, 13, 28)}, "test"),
    "zenodo": ({"training_data": (0, 1, 2, 13, 28)}, "test_data"),
    "doubled": ({"TrainingData_Part1/TrainingData_Part1": (0, 1, 2, 13, 28)}, "TestData/TestData"),
    "named": ({"PROMISE12-Training": (0, 1, 2, 13, 28)}, "PROMISE12-Test"),
}
"""Training folders with their case numbers, and the test folder."""

TRAINING = (0, 1, 2, 13, 28)
TEST = (0, 1, 4)
LIVE = (0, 3)


def write_promise12(root: Path, layout: str = "original") -> Path:
    """Five training, three test and, as Zenodo has them, two live cases; test references in the Zenodo layout only."""
    training, test = LAYOUTS[layout]
    for folder, numbers in training.items():
        write_cases(root / folder, "train", numbers)
    write_cases(root / test, "test", TEST, reference=layout == "zenodo")
    if layout == "zenodo":
        write_cases(root / "livechallenge_test_data", "live", LIVE)
        (root / "LICENSE.TXT").write_text("Terms.")
    return root
