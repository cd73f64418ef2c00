"""Reading and writing volumes: NIfTI through nibabel, MetaImage and NRRD by the modules of that name."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from nnunet_box.dataset import metaimage, nrrd
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.untrusted import GZIP_CHUNK, TRAILING, check_nifti_claim, nifti_claim, unpacks_within
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.files import write_beside

NIFTI_SUFFIXES = (".nii", ".nii.gz")
METAIMAGE_SUFFIXES = (".mhd", ".mha")
OTHER_SUFFIXES = (*METAIMAGE_SUFFIXES, ".nrrd")
JUNK_NAMES = (".DS_Store", "Thumbs.db", "__MACOSX")


def is_junk(path: Path) -> bool:
    """Hidden files (AppleDouble ``._x``, our own temporaries), Finder and Explorer litter: never data, in any
    download.
    """
    return path.name.startswith(".") or any(part in JUNK_NAMES for part in path.parts)


def is_volume(path: Path) -> bool:
    """Whether the name is that of a volume we can read."""
    return path.name.lower().endswith(NIFTI_SUFFIXES + OTHER_SUFFIXES) and not is_junk(path)


def strip_suffix(path: Path) -> str:
    """File name without its volume suffix: ``a.b.nii.gz`` gives ``a.b``."""
    for suffix in (".nii.gz", ".nii", *OTHER_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


@dataclass(frozen=True)
class Volume:
    """An array with its grid.

    array: (Z, Y, X), or (C, Z, Y, X) where the file holds several channels; the file's own values, scale factors
    applied.
    geometry: grid of the first three axes.
    header: facts of the file needed for the way back: ``format``, and for NIfTI its type, forms and units.
    """

    array: NDArray[Any]
    geometry: Geometry
    header: dict[str, Any]


@dataclass(frozen=True)
class OpenVolume:
    """A volume whose header has been read, and whose voxels have not: each file is opened once for both.

    channels: along a fourth axis, 1 where there is none. source: nibabel's image, a ``MetaImage``, or an ITK reader.
    """

    path: Path
    geometry: Geometry
    channels: int
    source: Any

    def header(self) -> dict[str, Any]:
        """``Volume.header``."""
        if self.path.name.lower().endswith(NIFTI_SUFFIXES):
            return _nifti_facts(self.source, self.geometry)
        if self.path.name.lower().endswith(METAIMAGE_SUFFIXES):
            return {"format": self.path.suffix.lower()[1:], "dtype": self.source.dtype.name}
        return {"format": "nrrd"}

    def voxels(self) -> NDArray[Any]:
        """``Volume.array``.

        Raises
        ------
        InvalidData: truncated or corrupt.
        """
        if self.path.name.lower().endswith(NIFTI_SUFFIXES):
            return _nifti_array(self.path, self.source, self.channels)
        meta = self.path.name.lower().endswith(METAIMAGE_SUFFIXES)
        array = metaimage.read_voxels(self.source) if meta else nrrd.read_voxels(self.path)
        return array if self.channels > 1 or array.ndim == 3 else array[0]


def open_volume(path: Path) -> OpenVolume:
    """Read a volume's header.

    Spacing is NIfTI's ``pixdim``, never the affine's scale: ACDC's sform says 1 mm whatever the image is.

    Raises
    ------
    InvalidData: missing, unreadable, or not a 3-D or 4-D volume.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidData(path, "a volume", "no such file", "Restore it from the download.")
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        nifti = _open_nifti(path)
        return OpenVolume(path, *_nifti_grid(path, nifti), nifti)
    if path.name.lower().endswith(METAIMAGE_SUFFIXES):
        meta = metaimage.open_metaimage(path)
        _, channels = _spatial(path, meta.size)
        return OpenVolume(path, metaimage.geometry_of(meta), channels, meta)
    reader = nrrd.open_nrrd(path)
    _, channels = _spatial(path, tuple(reader.GetSize()))
    return OpenVolume(path, nrrd.geometry_of(path, reader), channels, reader)


def read_header(path: Path) -> tuple[Geometry, int, dict[str, Any]]:
    """Grid, number of channels along a fourth axis (1 where there is none) and header facts, without reading voxels.

    Raises
    ------
    InvalidData: as ``open_volume``.
    """
    opened = open_volume(path)
    return opened.geometry, opened.channels, opened.header()


def read_volume(path: Path) -> Volume:
    """Read a whole volume.

    Raises
    ------
    InvalidData: missing, truncated, corrupt, or not a 3-D or 4-D volume.
    """
    opened = open_volume(path)
    return Volume(opened.voxels(), opened.geometry, opened.header())


def _open_nifti(path: Path) -> Any:
    claims = check_nifti_claim(path)
    try:
        image: Any = nibabel.load(path)
        kind = image.get_data_dtype()
        if not claims:
            # nibabel puts it right in silence, and then goes by whatever sizes the rest says.
            raise ValueError("sizeof_hdr is neither 348 nor 540")
    except Exception as error:
        # A damaged header can fail in any way; none of it may end in a traceback.
        found = f"{path.stat().st_size} bytes that do not open ({error})"
        raise InvalidData(
            path, "a NIfTI file", found, "Copy it again from the download; the copy may be incomplete."
        ) from error
    if kind.kind not in "iuf":
        raise InvalidData(path, "voxels that are one number each", f"{kind}", "Convert the file to such a type.")
    return image


def _spatial(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """(X, Y, Z[, C]) of a file to ((Z, Y, X), C); trailing axes of length 1 are dropped."""
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InvalidData(path, "3 axes, or 4 with channels last", f"shape {shape}", "Convert it to a 3-D volume.")
    return (int(shape[2]), int(shape[1]), int(shape[0])), int(shape[3]) if len(shape) == 4 else 1


def _nifti_grid(path: Path, image: Any) -> tuple[Geometry, int]:
    spatial, channels = _spatial(path, image.shape)
    zooms = _stored_zooms(path, image)
    if not all(np.isfinite(zooms)) or min(zooms) <= 0:
        raise InvalidData(
            path, "positive spacing in pixdim", f"{zooms}", "Set the header's pixdim to the real spacing."
        )
    return Geometry.from_affine_ras(spatial, image.affine, (zooms[2], zooms[1], zooms[0])), channels


def _nifti_facts(image: Any, geometry: Geometry) -> dict[str, Any]:
    return {
        "format": "nifti",
        "dtype": str(image.header.get_data_dtype()),
        "qform_code": int(image.header["qform_code"]),
        "sform_code": int(image.header["sform_code"]),
        "axes": len(image.shape),
        "pixdim": [float(value) for value in image.header["pixdim"]],
        "quaternion": [float(image.header[f"quatern_{axis}"]) for axis in "bcd"],
        "qoffset": [float(image.header[f"qoffset_{axis}"]) for axis in "xyz"],
        "srow": [[float(value) for value in image.header[f"srow_{axis}"]] for axis in "xyz"],
        "xyzt_units": int(image.header["xyzt_units"]),
        "axis_codes": "".join(code or "?" for code in nibabel.aff2axcodes(geometry.affine_ras())),
    }


def _stored_zooms(path: Path, image: Any) -> list[float]:
    """Spacing (x, y, z) as the file says it; nibabel's own header turns a 0 into 1 mm without a word."""
    with nibabel.openers.Opener(str(path)) as stream:
        stored = type(image.header).from_fileobj(stream, check=False)
    return [float(abs(zoom)) for zoom in stored["pixdim"][1:4]]


def _nifti_array(path: Path, image: Any, channels: int) -> NDArray[Any]:
    try:
        array = _gzip_array(path, image.dataobj) if path.name.lower().endswith(".gz") else np.asanyarray(image.dataobj)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InvalidData(
            path,
            f"voxels of shape {image.shape}",
            f"data that ends early or is corrupt ({error})",
            "Copy it again from the download.",
        ) from error
    # MATLAB tools leave a fourth axis of length 1.
    array = array.reshape((*array.shape[:3], channels) if channels > 1 else array.shape[:3])
    return np.ascontiguousarray(array.transpose(tuple(reversed(range(array.ndim)))))


def _gzip_array(path: Path, proxy: Any) -> NDArray[Any]:
    """Voxels as nibabel reads them, and on to the stream's end, where its checksum is: damage that leaves the length as
    it was is told by nothing else.
    """
    stored = np.empty(proxy.shape, np.dtype(proxy.dtype), order="F")
    left = memoryview(stored.reshape(-1, order="F").view(np.uint8))
    with gzip.open(path) as stream:
        stream.seek(proxy.offset)
        while left:
            count = stream.readinto(left)
            if not count:
                raise EOFError(f"{len(left)} bytes are missing")
            left = left[count:]
        drain(path, stream)
    array: NDArray[Any] = apply_read_scaling(stored, proxy.slope, proxy.inter)
    return array


def drain(path: Path, stream: gzip.GzipFile) -> None:
    """Read a stream from behind its voxels to its end.

    Raises
    ------
    InvalidData: it goes on for longer than it may. OSError, EOFError, zlib.error: damaged.
    """
    rest = 0
    while rest <= TRAILING and (chunk := stream.read(GZIP_CHUNK)):
        rest += len(chunk)
    if rest > TRAILING:
        check_gzip(path)  # It says how much was claimed.


def check_gzip(path: Path) -> None:
    """Read a ``.gz`` to its end, so that its checksum is compared: a file cut after the last voxel, or with a flipped
    bit, opens. No more is unpacked than its NIfTI header claims.

    Raises
    ------
    InvalidData: the stream ends early, fails its checksum, or goes on after its voxels.
    """
    if not path.name.lower().endswith(".gz"):
        return
    claim = nifti_claim(path) if path.is_file() else None
    try:
        within = unpacks_within(path, claim[0] + TRAILING if claim is not None else None)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidData(
            path, "a whole gzip file", f"{error}", "Copy it again from the download; the copy is incomplete."
        ) from error
    if claim is not None and not within:
        raise InvalidData(
            path,
            f"a stream of {claim[0]} bytes, as its header claims",
            "one that goes on",
            "Copy it again from the download.",
        )


def write_nifti(path: Path, array: NDArray[Any], geometry: Geometry) -> None:
    """Write (Z, Y, X) voxels as NIfTI with qform and sform both set from ``geometry``, whole or not at all.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written.
    """
    with write_beside(path) as temporary:
        save_nifti(temporary, array, geometry)


def save_nifti(path: Path, array: NDArray[Any], geometry: Geometry) -> None:
    """As ``write_nifti``, but straight to ``path``: for files in a folder that is itself put in place as a whole.

    Types NIfTI readers trip over are narrowed: 64-bit floats to 32, 64-bit integers to 32 where they fit, booleans to
    uint8.
    """
    array = np.asarray(array)
    wide = array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size > 0
    kept = stored_type(array.dtype, (array.min(), array.max()) if wide else (0, 0))
    nibabel.save(nifti_image(array.astype(kept, copy=False), geometry), path)


def nifti_image(array: NDArray[Any], geometry: Geometry) -> Any:
    """A NIfTI image of (Z, Y, X) voxels with qform and sform both set from ``geometry``."""
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), geometry.affine_ras())
    image.header.set_xyzt_units("mm")
    image.set_sform(geometry.affine_ras(), code=1)
    image.set_qform(geometry.affine_ras(), code=1)
    return image


def stored_type(dtype: np.dtype[Any], extremes: tuple[float, float]) -> np.dtype[Any]:
    """The type a volume is written as; ``extremes``, its least and largest value, decide for 64-bit integers only."""
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind in "iu" and dtype.itemsize == 8:
        limits = np.iinfo(np.int32)
        return np.dtype(np.int32 if extremes[0] >= limits.min and extremes[1] <= limits.max else np.float32)
    return dtype.newbyteorder("=")


def write_labels_like(path: Path, labels: NDArray[np.uint8], source: Path) -> None:
    """Write a label map (Z, Y, X) on the grid of ``source``, with its header, as the format the name of ``path`` says.

    NIfTI to NIfTI keeps the source's header field by field (quaternion, both forms and their codes, units), so that a
    scorer that compares headers finds no difference; only type, scaling and the fourth axis change. uint8, slope 1,
    intercept 0. A ``.mhd`` gets its own ``.raw``, a ``.mha`` is compressed; both take over the fields of a MetaImage
    source's header letter by letter.

    Raises
    ------
    InvalidData: the label map has another shape than the source.
    NnboxError: the disk is full or the folder cannot be written.
    """
    geometry, _, header = read_header(source)
    if labels.shape != geometry.shape:
        raise InvalidData(source, f"labels of shape {geometry.shape}", f"{labels.shape}", "Predict this case again.")
    labels = np.ascontiguousarray(labels, dtype=np.uint8)
    if path.suffix.lower() == ".mhd":
        if header["format"] not in ("mhd", "mha"):
            raise UsageError(
                f"{path}: a .mhd takes its header from a MetaImage, which {source.name} is not; write .mha."
            )
        metaimage.write_labels(path, labels, metaimage.grid_fields(metaimage.open_metaimage(source)))
        return
    with write_beside(path) as temporary:
        if path.name.lower().endswith(NIFTI_SUFFIXES) and header["format"] == "nifti":
            nibabel.save(_nifti_like(labels, _open_nifti(source)), temporary)
        elif path.name.lower().endswith(NIFTI_SUFFIXES):
            nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), geometry.affine_ras()), temporary)
        elif path.suffix.lower() == ".mha":
            metaimage.save_compressed_labels(temporary, labels, _metaimage_fields(source, geometry, header))
        else:
            _write_itk(temporary, labels, geometry)


def _metaimage_fields(source: Path, geometry: Geometry, header: dict[str, Any]) -> dict[str, str]:
    if header["format"] in ("mhd", "mha"):
        image = metaimage.open_metaimage(source)
        if len(image.size) == 3:
            return metaimage.grid_fields(image)
    return metaimage.grid_as_fields(geometry)


def _nifti_like(labels: NDArray[np.uint8], source: Any) -> Any:
    header = source.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(labels.shape[::-1])
    if len(source.shape) > 3:
        header["pixdim"][4:] = 1
    header["cal_min"] = header["cal_max"] = 0
    return type(source)(labels.transpose(2, 1, 0), None, header)


def _write_itk(path: Path, labels: NDArray[np.uint8], geometry: Geometry) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(path), useCompression=True)
