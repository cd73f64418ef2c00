"""Whether a run of a task has got further than the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunet_box.errors import InvalidData
from nnunet_box.files import PARTIAL_MARK, read_json
from nnunet_box.temporary import TEMPORARY_MARK

CHECKPOINT_STATE = Path("checkpoint", "state.json")
"""Of a training, beside its weights; it holds digests of the network and the optimiser, which every batch changes."""


def reached(outputs: Sequence[Path]) -> str:
    """A digest of how far a task has come: the names of the files that it has made, also those of a folder that is not
    whole yet, and the digests in a training's checkpoint.

    outputs: see ``graph.Task``.
    """
    names = sorted({name for output in outputs for name in _made(output)})
    checkpoints = [_digests(folder / CHECKPOINT_STATE) for folder in sorted({output.parent for output in outputs})]
    return hashlib.sha256(json.dumps([names, checkpoints], sort_keys=True).encode()).hexdigest()


def _made(output: Path) -> Iterator[str]:
    for place in (output, output.with_name(f"{PARTIAL_MARK}{output.name}")):
        for file in (place, *place.rglob("*")):
            if file.is_file() and TEMPORARY_MARK not in str(file):
                yield str(file)


def _digests(state: Path) -> object:
    try:
        return read_json(state).get("files")
    except InvalidData:
        return None
