"""Reading NIfTI through nibabel: a header that is checked first, spacing as it is stored, streams to their end.

Format: nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.untrusted import AGAIN, check_nifti_claim, drain
from nnunet_box.errors import InvalidData


def open_nifti(path: Path) -> Any:
    """Nibabel's image, of which the header has been read.

    Raises
    ------
    InvalidData: no NIfTI file, a claim that the file cannot hold, or voxels that are not one number each.
    """
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


def geometry_of(path: Path, image: Any, shape: tuple[int, int, int]) -> Geometry:
    """Grid of an opened file whose first three axes have that shape (Z, Y, X); spacing is ``pixdim``.

    Raises
    ------
    InvalidData: spacing that is not positive.
    """
    zooms = _stored_zooms(path, image)
    if not all(np.isfinite(zooms)) or min(zooms) <= 0:
        raise InvalidData(
            path, "positive spacing in pixdim", f"{zooms}", "Set the header's pixdim to the real spacing."
        )
    return Geometry.from_affine_ras(shape, image.affine, (zooms[2], zooms[1], zooms[0]))


def _stored_zooms(path: Path, image: Any) -> list[float]:
    """Spacing (x, y, z) as the file says it; nibabel's own header turns a 0 into 1 mm without a word."""
    with nibabel.openers.Opener(str(path)) as stream:
        stored = type(image.header).from_fileobj(stream, check=False)
    return [float(abs(zoom)) for zoom in stored["pixdim"][1:4]]


def facts_of(image: Any, geometry: Geometry) -> dict[str, Any]:
    """What is needed of a header for the way back: type, forms, units."""
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


def read_voxels(path: Path, image: Any, channels: int) -> NDArray[Any]:
    """Voxels (Z, Y, X), or (C, Z, Y, X) where there are several channels, scale factors applied.

    Raises
    ------
    InvalidData: the voxels end early or are corrupt.
    """
    try:
        array = _gzip_array(path, image.dataobj) if path.name.lower().endswith(".gz") else np.asanyarray(image.dataobj)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        found = f"data that ends early or is corrupt ({error})"
        raise InvalidData(path, f"voxels of shape {image.shape}", found, AGAIN) from error
    # MATLAB tools leave a fourth axis of length 1.
    array = array.reshape((*array.shape[:3], channels) if channels > 1 else array.shape[:3])
    return np.ascontiguousarray(array.transpose(tuple(reversed(range(array.ndim)))))


def _gzip_array(path: Path, proxy: Any) -> NDArray[Any]:
    """Voxels as nibabel reads them, and on to the stream's end, where its checksum is: damage that leaves the length as
    it was is told by nothing else.
    """
    stored = np.empty(proxy.shape, np.dtype(proxy.dtype), order="F")
    left = stored.reshape(-1, order="F").view(np.uint8).data
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
