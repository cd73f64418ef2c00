"""Reading patches of the case store as it is compressed, beside Zstandard in blosc2's own blocks, which it had before:
``python benchmarks/store_reading.py``.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from training_gpu import data

from nnunet_box.preprocessing.store import compression

READS = 40
CHUNK = (1, *data.PATCH)
BEFORE: dict[str, Any] = {"cparams": {"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1}}


def seconds_a_patch(stored: Any) -> float:
    """Median processor seconds of reading a patch anywhere."""
    random = np.random.default_rng(0)
    seconds = []
    for _ in range(READS):
        starts = [int(random.integers(length - edge + 1)) for length, edge in zip(data.SHAPE, data.PATCH, strict=True)]
        window = tuple(slice(start, start + edge) for start, edge in zip(starts, data.PATCH, strict=True))
        started = time.process_time()
        stored[(slice(0, 1), *window)]
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def main() -> None:
    """One line: seconds and share of the array's bytes of both."""
    _, image, _ = next(data.cases())
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, how in (("ours", compression(CHUNK)), ("peer", BEFORE)):
            file = str(Path(folder) / f"{name}.b2nd")
            started = time.process_time()
            blosc2.asarray(image, urlpath=file, chunks=CHUNK, **how)
            written = time.process_time() - started
            stored = blosc2.open(file, mode="r", dparams={"nthreads": 1})
            figures[name] = {
                "write_seconds": round(written, 2),
                "seconds": round(seconds_a_patch(stored), 4),
                "size": round(stored.schunk.cbytes / stored.schunk.nbytes, 3),
            }
    ratio = figures["peer"]["seconds"] / figures["ours"]["seconds"]
    print(json.dumps({"what": "a patch of the case store", **figures, "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
