"""``stage.json``: what a finished stage was made from. Same key, nothing to do; other key, redo; missing,
unfinished.
"""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnunet_box
from nnunet_box.files import read_json, write_json

STAGE_FILE = "stage.json"


def key_of(parameters: Any) -> str:
    """Hash of JSON-able parameters, order of keys irrelevant."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True, default=str).encode()).hexdigest()[:16]


def is_done(folder: Path, key: str, inputs: Mapping[str, str] | None = None) -> bool:
    """Whether the stage in ``folder`` ended with this key and of these inputs; those it did not note do not count."""
    file = folder / STAGE_FILE
    if not file.is_file():
        return False
    found = read_json(file, schema_version=1)
    noted = found.get("inputs", {})
    return (
        bool(found.get("key") == key)
        and isinstance(noted, dict)
        and all(noted.get(name, is_) == is_ for name, is_ in (inputs or {}).items())
    )


@contextmanager
def stage(folder: Path, key: str, parameters: Any, inputs: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a stage; write ``stage.json`` when it ends without an error. inputs: keys of what it was made from."""
    started = time.monotonic()
    (folder / STAGE_FILE).unlink(missing_ok=True)
    yield
    scale = 1 if sys.platform == "darwin" else 1024
    write_json(
        folder / STAGE_FILE,
        {
            "schema_version": 1,
            "key": key,
            "parameters": parameters,
            "inputs": dict(inputs or {}),
            "seconds": round(time.monotonic() - started, 2),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
            "versions": {"nnunet_box": nnunet_box.__version__, "python": platform.python_version()},
        },
    )
