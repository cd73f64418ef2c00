"""Reading and writing volumes, whatever their format; ``nifti``, ``metaimage`` and ``nrrd`` read one each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset import metaimage, nifti, nrrd
from nnunet_box.dataset.geometry import Geometry
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
            return nifti.facts_of(self.source, self.geometry)
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
            return nifti.read_voxels(self.path, self.source, self.channels)
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
        image = nifti.open_nifti(path)
        shape, channels = _spatial(path, image.shape)
        return OpenVolume(path, nifti.geometry_of(path, image, shape), channels, image)
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


def _spatial(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """(X, Y, Z[, C]) of a file to ((Z, Y, X), C); trailing axes of length 1 are dropped."""
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InvalidData(path, "3 axes, or 4 with channels last", f"shape {shape}", "Convert it to a 3-D volume.")
    return (int(shape[2]), int(shape[1]), int(shape[0])), int(shape[3]) if len(shape) == 4 else 1


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
            nibabel.save(_nifti_like(labels, nifti.open_nifti(source)), temporary)
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
