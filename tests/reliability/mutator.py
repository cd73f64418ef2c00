"""Volumes damaged by a seed: every mutant follows from (seed, number) alone and can be made again.

A mutant is a good volume's files with one thing wrong, in one of the formats that are read. The kinds are those that
downloads, disks and people with bad intentions bring about.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import nibabel
import numpy as np

SHAPE = (20, 18, 6)
"""(X, Y, Z), all different, so that exchanged axes show."""
SPACING = (1.5, 1.25, 3.0)
ORIGIN = (-12.5, 7.0, 30.0)
FORMATS = {
    "nii.gz": (".nii.gz",),
    "nii": (".nii",),
    "mhd": (".mhd", ".raw"),
    "mhd zraw": (".mhd", ".zraw"),
    "mha": (".mha",),
    "mha compressed": (".mha",),
    "nrrd": (".nrrd",),
    "nrrd gzip": (".nrrd",),
}
"""Endings of a volume's files, the one that is opened first."""
SHARES = ("nii.gz",) * 4 + ("nii",) * 2 + ("mhd", "mhd zraw") * 2 + ("mha", "mha compressed", "nrrd", "nrrd gzip")
"""How often a format's turn comes: challenges ship the first four."""
ROLES = ("image", "image", "image", "label")

HEADER_SIZE = 348
DIM, DATATYPE, PIXDIM, OFFSET, SLOPE, UNITS, FORMS, QUATERNION, SROW, MAGIC = (
    40,
    70,
    76,
    108,
    112,
    123,
    252,
    256,
    280,
    344,
)
"""Where NIfTI-1 keeps them (nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h)."""

FLOATS = (0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, 1e-45, 1e-20, 1e-3, 40.0, 1e3, 1e6, 1e20, 3e38)
SHORTS = (0, -1, -32768, 1, 2, 3, 7, 8, 100, 1000, 32767)
NUMBERS = ("0", "-1", "nan", "inf", "1e400", "1e-320", "1e20", "99999999999999999999", "0x10", "", "1 1", "NaN NaN NaN")
DATATYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 9999, -1)
"""NIfTI's: unknown, one bit, integers, floats, complex (32, 1792, 2048), RGB (128), RGBA (2304), long double (1536)."""
BOMB_BYTES = 96 << 20

Files = dict[str, bytes]
"""Ending to content."""


@dataclass(frozen=True)
class Mutant:
    """number: of the run. kind: what was done, to a volume of that format and role (``image`` or ``label``). files: by
    ending. kept: where it passes, its voxels and grid have to be the good volume's.
    """

    seed: int
    number: int
    kind: str
    format: str
    role: str
    files: Files
    kept: bool


def good_image(case: int) -> np.ndarray:
    """(X, Y, Z) int16; a bright box in noise, different for each case."""
    random = np.random.default_rng(case)
    voxels = random.integers(20, 60, SHAPE).astype(np.int16)
    voxels[5:12, 4 + case % 3 : 12, 1:5] += 200
    return voxels


def good_label(case: int) -> np.ndarray:
    """(X, Y, Z) uint8: the box."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:12, 4 + case % 3 : 12, 1:5] = 1
    return labels


def volume_files(voxels: np.ndarray, form: str) -> Files:
    """A good volume (X, Y, Z[, C]) in a format."""
    if form.startswith("nii"):
        return {FORMATS[form][0]: _packed(nifti_bytes(voxels), form)}
    if form.startswith("nrrd"):
        return {".nrrd": _nrrd_header(voxels, "gzip" if "gzip" in form else "raw") + _packed(_raw(voxels), form)}
    content = _packed(_raw(voxels), form)
    data = "LOCAL" if form.startswith("mha") else f"NAME{FORMATS[form][1]}"
    header = _metaimage_header(voxels, _compressed(form), data)
    return {".mha": header + content} if data == "LOCAL" else {".mhd": header, FORMATS[form][1]: content}


def nifti_bytes(voxels: np.ndarray) -> bytes:
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = ORIGIN
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    return content


def mutant(seed: int, number: int) -> Mutant:
    """The mutant of that number."""
    random = np.random.default_rng([seed, number])
    form = SHARES[number % len(SHARES)]
    role = str(random.choice(ROLES))
    kinds = [kind for kind in KINDS if kind.fits(form, role)]
    kind = kinds[int(random.integers(len(kinds)))]
    case = 1
    voxels = good_image(case) if role == "image" else good_label(case)
    return Mutant(seed, number, kind.name, form, role, kind.damage(voxels, form, random), kind.kept)


@dataclass(frozen=True)
class Kind:
    """damage: (voxels, format, random) to files. fits: whether a format and role can be damaged so."""

    name: str
    damage: Callable[[np.ndarray, str, np.random.Generator], Files]
    fits: Callable[[str, str], bool] = lambda form, role: True
    kept: bool = False


def _compressed(form: str) -> bool:
    return form.endswith((".gz", "zraw", "compressed", "gzip"))


def _packed(content: bytes, form: str) -> bytes:
    if not _compressed(form):
        return content
    return gzip.compress(content, mtime=0) if form in ("nii.gz", "nrrd gzip") else zlib.compress(content)


def _raw(voxels: np.ndarray) -> bytes:
    """As MetaImage and NRRD keep them: x fastest."""
    return voxels.astype(voxels.dtype.newbyteorder("<")).tobytes(order="F")


ELEMENTS = {"i2": "MET_SHORT", "u1": "MET_UCHAR", "f4": "MET_FLOAT", "f8": "MET_DOUBLE"}
TYPES = {"i2": "int16", "u1": "uint8", "f4": "float", "f8": "double"}


def _metaimage_header(voxels: np.ndarray, compressed: bool, data: str) -> bytes:
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compressed),
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(map(str, ORIGIN)),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(map(str, SPACING)),
        "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": ELEMENTS[voxels.dtype.str[1:]],
        "ElementDataFile": data,
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode()


def _nrrd_header(voxels: np.ndarray, encoding: str) -> bytes:
    directions = " ".join(
        "(" + ",".join(str(SPACING[axis] if axis == other else 0) for other in range(3)) + ")" for axis in range(3)
    )
    lines = (
        "NRRD0004",
        f"type: {TYPES[voxels.dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, voxels.shape))}",
        f"space directions: {directions}",
        "kinds: domain domain domain",
        "endian: little",
        f"encoding: {encoding}",
        f"space origin: ({','.join(map(str, ORIGIN))})",
    )
    return "\n".join((*lines, "", "")).encode()


def _split(files: Files, form: str) -> tuple[str, bytes, bytes]:
    """Ending of the header's file, the header, and what follows it in that file."""
    ending = FORMATS[form][0]
    content = files[ending]
    if form == "nii.gz":
        content = gzip.decompress(content)
    if form.startswith("nii"):
        return ending, content[:HEADER_SIZE], content[HEADER_SIZE:]
    if form.startswith("nrrd"):
        end = content.index(b"\n\n") + 2
    elif form.startswith("mha"):
        end = content.index(b"LOCAL\n") + 6
    else:
        end = len(content)
    return ending, content[:end], content[end:]


def _joined(files: Files, form: str, header: bytes) -> Files:
    """The files with another header."""
    ending, _, rest = _split(files, form)
    content = header + rest
    return files | {ending: gzip.compress(content, mtime=0) if form == "nii.gz" else content}


def _one_of(files: Files, random: np.random.Generator) -> str:
    return str(random.choice(sorted(files)))


def truncated(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    files = volume_files(voxels, form)
    ending = _one_of(files, random)
    content = files[ending]
    length = int(random.choice([0, 1, 100, HEADER_SIZE, 352, len(content) - 1, int(random.integers(len(content)))]))
    return files | {ending: content[: min(length, len(content) - 1)]}


def flipped_bits(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """Of the files as they lie on the disk."""
    files = volume_files(voxels, form)
    ending = _one_of(files, random)
    return files | {ending: _flip(files[ending], random)}


def flipped_header_bits(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    files = volume_files(voxels, form)
    return _joined(files, form, _flip(_split(files, form)[1], random))


def _flip(content: bytes, random: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(random.integers(1, 9))):
        damaged[int(random.integers(len(damaged)))] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def _field(files: Files, form: str, at: int, layout: str, *values: float) -> Files:
    """A NIfTI header's field put."""
    header = bytearray(_split(files, form)[1])
    with np.errstate(over="ignore"):
        struct.pack_into(layout, header, at, *values)
    return _joined(files, form, bytes(header))


def _line(files: Files, form: str, key: str, value: str | None) -> Files:
    """A line of a text header put, or taken out."""
    header = _split(files, form)[1]
    between = ": " if form.startswith("nrrd") else " = "
    end = b"\n\n" if form.startswith("nrrd") else b"\n"
    lines = header.decode().rstrip("\n").split("\n")
    kept = [line for line in lines if not line.startswith(f"{key}{between}")]
    added = [] if value is None else [f"{key}{between}{value}"]
    # ElementDataFile ends a MetaImage header, the magic begins an NRRD's.
    whole = kept[:1] + added + kept[1:] if key != "ElementDataFile" else kept + added
    return _joined(files, form, "\n".join(whole).encode() + end)


def _text(random: np.random.Generator, *more: str) -> str:
    return str(random.choice([*NUMBERS, *more]))


def sizes(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """Huge, none, negative, 2-D, 4-D, others than are stored."""
    files = volume_files(voxels, form)
    if form.startswith("nii"):
        dims = [3, *SHAPE, 1, 1, 1, 1]
        how = int(random.integers(6))
        if how == 0:
            dims[int(random.integers(8))] = int(random.choice(SHORTS))
        elif how == 1:
            dims = [int(random.integers(3, 8)), *(int(value) for value in random.choice((1000, 32000, 32767), 7))]
        elif how == 2:
            dims[:4] = [2, SHAPE[0], SHAPE[1] * SHAPE[2], 1]
        elif how == 3:
            dims[:5] = [4, SHAPE[0], SHAPE[1], SHAPE[2] // 2, 2]
        elif how == 4:
            dims[1:4] = [int(value) for value in random.permutation(SHAPE)]
        else:
            dims[1 + int(random.integers(3))] += int(random.choice((-1, 1, 500)))
        mutated = _field(files, form, DIM, "<8h", *dims)
        if how == 1 and random.random() < 0.5:
            # A voxel of no bits makes the claim small.
            mutated = _field(mutated, form, DATATYPE + 2, "<h", int(random.choice((0, -8, 1))))
        return mutated
    key = "sizes" if form.startswith("nrrd") else "DimSize"
    axes = "dimension" if form.startswith("nrrd") else "NDims"
    options = [
        (key, "20 18 100000000"),
        (key, "1000000 1000000 1000000"),
        (key, "4294967296 18 6"),
        (key, "4294967316 18 6"),
        (key, "0 18 6"),
        (key, "-20 18 -6"),
        (key, "20 18"),
        (key, "20 18 6 1"),
        (key, "18 20 6"),
        (key, "20 18 7"),
        (key, "20.5 18 6"),
        (key, _text(random)),
        (axes, _text(random, "2", "4", "1", "16", "1000000", "2147483648")),
        (key, None),
        (axes, None),
    ]
    return _line(files, form, *options[int(random.integers(len(options)))])


def spacing(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    files = volume_files(voxels, form)
    value = float(random.choice(FLOATS))
    if form.startswith("nii"):
        axis = int(random.integers(1, 4))
        if random.random() < 0.4:
            return _field(files, form, PIXDIM + 4, "<3f", value, value, value)
        return _field(files, form, PIXDIM + 4 * axis, "<f", value)
    text = f"{value:g}" if random.random() < 0.6 else _text(random)
    if form.startswith("nrrd"):
        return _line(files, form, "space directions", f"({text},0,0) (0,{text},0) (0,0,3)")
    key = str(random.choice(["ElementSpacing", "ElementSize"]))
    mutated = _line(files, form, "ElementSpacing", None) if key == "ElementSize" else files
    return _line(mutated, form, key, f"{text} {text} 3" if random.random() < 0.5 else f"1.5 1.25 {text}")


def orientation(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    files = volume_files(voxels, form)
    value = float(random.choice(FLOATS))
    if form.startswith("nii"):
        codes = [int(code) for code in random.choice([0, 1, 2, 4, 5, -1, 32767], 2)]
        mutated = _field(files, form, FORMS, "<2h", *codes) if random.random() < 0.6 else files
        how = int(random.integers(5))
        if how == 0:
            return _field(mutated, form, QUATERNION, "<3f", value, value, value)
        if how == 1:
            return _field(mutated, form, QUATERNION + 12, "<3f", value, value, value)
        if how == 2:
            return _field(mutated, form, SROW, "<12f", *([value] * 12))
        if how == 3:
            return _field(mutated, form, PIXDIM, "<f", value)
        return _field(mutated, form, SROW + 4 * int(random.integers(12)), "<f", value)
    text = _text(random, "1e-30")
    if form.startswith("nrrd"):
        options = [
            ("space directions", f"({text},0,0) (0,1,0) (0,0,1)"),
            ("space directions", "(0,0,0) (0,0,0) (0,0,0)"),
            ("space directions", "(1,0,0) (1,0,0) (0,0,1)"),
            ("space directions", "none none none"),
            ("space directions", "(1,0,0) (0,1,0)"),
            ("space directions", None),
            ("space", str(random.choice(["nowhere", "3D-right-handed", "scanner-xyz-time", "RAS", ""]))),
            ("space origin", f"({text},0,0)"),
            ("space origin", "()"),
        ]
    else:
        options = [
            ("TransformMatrix", f"{text} 0 0 0 1 0 0 0 1"),
            ("TransformMatrix", "0 0 0 0 0 0 0 0 0"),
            ("TransformMatrix", "1 0 0 1 0 0 0 0 1"),
            ("TransformMatrix", "1 0 0 0"),
            ("TransformMatrix", None),
            ("Offset", f"{text} 0 0"),
            ("Offset", ""),
            ("Offset", None),
        ]
    return _line(files, form, *options[int(random.integers(len(options)))])


def scaling(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """Slope and intercept."""
    files = volume_files(voxels, form)
    which = int(random.integers(3))
    values = [float(value) for value in random.choice([value for value in FLOATS if value == value], 2)]
    if which == 2:
        values = [float(random.choice(FLOATS)), float(random.choice(FLOATS))]
    return _field(files, form, SLOPE, "<2f", *(values if which else [values[0], 0.0]))


def voxel_type(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """Another type in the header, or really stored: complex, colours, fractions in a label map."""
    if form.startswith("nii"):
        if random.random() < 0.4:
            types = (np.complex64, np.complex128, np.float64, np.int64, np.uint64, np.float32)
            other = voxels.astype(types[int(random.integers(len(types)))]) * 1.5
            if random.random() < 0.4:
                other = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
            image = nibabel.Nifti1Image(other, np.diag([*SPACING, 1.0]), dtype=other.dtype)
            return {FORMATS[form][0]: _packed(image.to_bytes(), form)}
        files = volume_files(voxels, form)
        code = int(random.choice(DATATYPES))
        if random.random() < 0.5:
            return _field(files, form, DATATYPE, "<h", code)
        return _field(files, form, DATATYPE, "<2h", code, int(random.choice((0, 1, 8, 16, 32, 64, 128, -1))))
    if random.random() < 0.3:
        return volume_files(voxels.astype(np.float32) * 1.5, form)
    files = volume_files(voxels, form)
    if form.startswith("nrrd"):
        options = [
            ("type", str(random.choice(["block", "signed char", "ulonglong", "float", "double", "nothing", ""]))),
            ("kinds", str(random.choice(["vector domain domain", "RGB-color domain domain", "complex domain domain"]))),
            ("kinds", str(random.choice(["list domain domain", "domain", "domain domain domain domain"]))),
            ("endian", str(random.choice(["big", "middle", ""]))),
            ("encoding", str(random.choice(["ascii", "hex", "bzip2", "raw", "gzip", "zrl", ""]))),
            ("block size", "1000000000"),
        ]
    else:
        elements = ["MET_STRING", "MET_FLOAT_ARRAY", "MET_DOUBLE", "MET_LONG", "MET_CHAR", "MET_NONE", ""]
        options = [
            ("ElementType", str(random.choice(elements))),
            ("ElementNumberOfChannels", _text(random, "2", "3", "1000000000")),
            ("BinaryData", str(random.choice(["False", "maybe", ""]))),
            ("BinaryDataByteOrderMSB", "True"),
            ("CompressedData", str(random.choice(["True", "False", "1", "maybe"]))),
        ]
    return _line(files, form, *options[int(random.integers(len(options)))])


def magic(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """What says which format it is, and lines that are there twice or not at all."""
    files = volume_files(voxels, form)
    if form.startswith("nii"):
        if random.random() < 0.5:
            return _field(files, form, MAGIC, "<4s", bytes(random.choice([b"evil", b"ni1\0", b"n+2\0", b"\0\0\0\0"])))
        return _field(files, form, 0, "<i", int(random.choice([0, 540, 1543569408, -1, 347, 2**31 - 1])))
    ending, header, _ = _split(files, form)
    lines = header.rstrip(b"\n").split(b"\n")
    at = int(random.integers(len(lines)))
    how = int(random.integers(4))
    if how == 0:
        lines.insert(at, lines[at])
    elif how == 1:
        del lines[at]
    elif how == 2:
        lines[at] = bytes(random.integers(1, 256, 40, dtype=np.uint8)).replace(b"\n", b" ")
    else:
        lines.insert(1, b"# " * 40000)
    return _joined(files, form, b"\n".join(lines) + (b"\n\n" if form.startswith("nrrd") else b"\n"))


def place_of_voxels(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """Offsets into the file, and other files named."""
    files = volume_files(voxels, form)
    if form.startswith("nii"):
        if random.random() < 0.3:
            extended = _field(files, form, OFFSET, "<f", float(random.choice([400.0, 4096.0, 1e7])))
            ending, header, rest = _split(extended, form)
            flagged = bytearray(rest)
            struct.pack_into("<4B2i", flagged, 0, 1, 0, 0, 0, int(random.choice([16, -16, 2**31 - 1, 0, 48])), 6)
            content = header + bytes(flagged)
            return {ending: gzip.compress(content, mtime=0) if form == "nii.gz" else content}
        value = float(random.choice([*FLOATS, 1.0, 348.0, 351.0, 353.0, 352.5, 5000.0, 2e9, -352.0]))
        return _field(files, form, OFFSET, "<f", value)
    names = [
        "/etc/passwd",
        "../secret.raw",
        "..\\secret.raw",
        "C:\\secret.raw",
        "LIST",
        "x%03d.raw 1 6 1",
        "",
        "nowhere",
    ]
    name = str(random.choice([*names, "\0", "a" * 5000, "/dev/zero", "/dev/stdin"]))
    if form.startswith("nrrd"):
        options = [
            ("data file", name),
            ("datafile", name),
            ("byte skip", _text(random, "1000000000", "-2")),
            ("line skip", _text(random, "1000000000", "5")),
        ]
    else:
        options = [
            ("ElementDataFile", name),
            ("HeaderSize", _text(random, "1000000000", "-2", "1")),
            ("CompressedDataSize", _text(random, "1000000000000")),
        ]
    return _line(files, form, *options[int(random.integers(len(options)))])


def _stream(files: Files, form: str) -> tuple[str, int]:
    """Ending of the file with the compressed stream, and where in it the stream begins."""
    ending = FORMATS[form][-1]
    if form in ("nii.gz", "mhd zraw"):
        return ending, 0
    return ending, len(files[ending]) - len(_split(files, form)[2])


def damaged_stream(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """Header, checksum, length; garbage and further members behind."""
    files = volume_files(voxels, form)
    ending, start = _stream(files, form)
    head, stream = files[ending][:start], bytearray(files[ending][start:])
    how = int(random.integers(7))
    if how == 0:
        stream[int(random.integers(min(10, len(stream))))] ^= 0xFF
    elif how == 1:
        stream[-5 - int(random.integers(4))] ^= 0xFF
    elif how == 2:
        stream[-1 - int(random.integers(4))] ^= 0xFF
    elif how == 3:
        stream += bytes(random.integers(1, 256, int(random.integers(1, 5000)), dtype=np.uint8))
    elif how == 4:
        stream += bytes(int(random.integers(1, 5000)))
    elif how == 5:
        stream += _packed(b"more", form)
    else:
        at = int(random.integers(10, len(stream) - 8))
        del stream[at : at + int(random.integers(1, 40))]
    return files | {ending: head + bytes(stream)}


def bomb(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """A small stream that becomes a large one: after the voxels, or as voxels that the header claims."""
    files = volume_files(voxels, form)
    ending, start = _stream(files, form)
    head = files[ending][:start]
    content = nifti_bytes(voxels) if form == "nii.gz" else _raw(voxels)
    if random.random() < 0.5:
        return files | {ending: head + _packed(content + bytes(BOMB_BYTES), form)}
    claimed = _claiming(files, form, (2000, 2000, int(random.choice((30, 3000, 30000)))))
    ending, start = _stream(claimed, form)
    if form == "nii.gz":
        return {ending: gzip.compress(gzip.decompress(claimed[ending])[:352] + bytes(1 << 20), mtime=0)}
    return claimed | {ending: claimed[ending][:start] + _packed(bytes(1 << 20), form)}


def _claiming(files: Files, form: str, shape: tuple[int, int, int]) -> Files:
    if form.startswith("nii"):
        return _field(files, form, DIM, "<4h", 3, *shape)
    return _line(files, form, "sizes" if form.startswith("nrrd") else "DimSize", " ".join(map(str, shape)))


def not_finite(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    other = voxels.astype(np.float32 if random.random() < 0.7 else np.float64)
    count = int(random.choice([1, 5, other.size]))
    places = random.permutation(other.size)[:count]
    other.reshape(-1)[places] = random.choice([np.nan, np.inf, -np.inf])
    return volume_files(other, form)


def label_values(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """Undeclared, negative, fractional, far too large."""
    how = int(random.integers(4))
    other = voxels.astype((np.int16, np.int16, np.float32, np.float64)[how])
    other[2, 3, 1] = (2, -1, 0.5, 1e300)[how]
    return volume_files(other, form)


def other_content(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """Not such a file at all."""
    files = volume_files(voxels, form)
    other = str(random.choice([name for name in FORMATS if not set(FORMATS[name]) & set(FORMATS[form])]))
    contents = [
        b"<html>Sign in to download</html>",
        bytes(len(voxels.tobytes())),
        bytes(random.integers(0, 256, 5000, dtype=np.uint8)),
        next(iter(volume_files(voxels, other).values())),
        gzip.compress(gzip.compress(nifti_bytes(voxels))),
        b"\x80\x04\x95",
    ]
    return files | {FORMATS[form][0]: contents[int(random.integers(len(contents)))]}


def flat(voxels: np.ndarray, form: str, random: np.random.Generator) -> Files:
    """One number everywhere, or one axis of a single voxel, or several channels: odd, and well formed."""
    how = int(random.integers(3))
    if how == 0:
        return volume_files(np.full_like(voxels, int(random.choice([0, 7, 127]))), form)
    if how == 1:
        return volume_files(voxels[:, :, :1], form)
    if not form.startswith("nii"):
        return volume_files(voxels[:1, :1, :1], form)
    return volume_files(np.stack([voxels] * 3, axis=-1), form)


def _nifti(form: str, role: str) -> bool:
    return form.startswith("nii")


def _has_stream(form: str, role: str) -> bool:
    return _compressed(form)


KINDS = (
    Kind("truncated", truncated, kept=True),
    Kind("flipped bits", flipped_bits),
    Kind("flipped header bits", flipped_header_bits),
    Kind("sizes", sizes),
    Kind("spacing", spacing),
    Kind("orientation", orientation),
    Kind("scaling", scaling, _nifti),
    Kind("voxel type", voxel_type),
    Kind("magic", magic),
    Kind("place of voxels", place_of_voxels),
    Kind("damaged stream", damaged_stream, _has_stream, kept=True),
    Kind("bomb", bomb, _has_stream, kept=True),
    Kind("not finite", not_finite, kept=True),
    Kind("label values", label_values, lambda form, role: role == "label", kept=True),
    Kind("other content", other_content, kept=True),
    Kind("flat", flat),
)
