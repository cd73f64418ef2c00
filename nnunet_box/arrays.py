"""Opening arrays that blosc2 keeps on disk: arrays and nothing else.

A file of its can also hold an expression or a function to be compiled when it is opened; blosc2 refuses those since
4.14.1 (github.com/Blosc/python-blosc2/releases/tag/v4.14.1), and here that is asked for by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_box.errors import InvalidData


def open_array(file: Path, what: str, axes: int, fix: str, threads: int | None = None) -> Any:
    """A lazy array of so many axes. what, fix: for the message. threads: that decompress it; all, if None.

    Raises
    ------
    InvalidData: missing, damaged, another number of axes, or no array.
    """
    import blosc2

    options = {} if threads is None else {"dparams": {"nthreads": threads}}
    try:
        if not file.is_file():
            raise OSError("no such file")
        array = blosc2.open(str(file), mode="r", deserialize="safe", **options)
    except Exception as error:
        # A damaged file can fail in any way; none of it may end in a traceback.
        raise InvalidData(file, what, f"a file that does not open ({error})", fix) from error
    if not isinstance(array, blosc2.NDArray) or array.ndim != axes or array.dtype.kind not in "iuf":
        found = (
            f"{type(array).__name__} of shape {getattr(array, 'shape', ())} and type {getattr(array, 'dtype', None)}"
        )
        raise InvalidData(file, what, found, fix)
    return array
