"""What a data set holds, by content: one that was copied or touched is the same, one that was changed is another."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nnunet_box.bundle import sha256
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.errors import InvalidData
from nnunet_box.execution.stage import key_of
from nnunet_box.files import read_json, write_json
from nnunet_box.progress import track
from nnunet_box.workspace import Workspace

READERS = 4
SCHEMA_VERSION = 1
FACTS = [int, int, str]
"""Size, time of change and SHA-256 of a file."""


def dataset_key(workspace: Workspace, dataset: Dataset) -> str:
    """What says that a data set's training cases changed: their names, labels' and channels' names, and the files'
    content.

    A file is read again only where its size or time of change is another than when it was read last.

    Raises
    ------
    InvalidData: a file that cannot be read.
    """
    of_case = {
        case.id: [*(channel.path for channel in case.channels), *([case.label] if case.label else [])]
        for case in dataset.cases
    }
    known = _contents(workspace.contents, dataset.folder, [path for paths in of_case.values() for path in paths])
    files = {case: [known[path] for path in paths] for case, paths in of_case.items()}
    return key_of([dataset.channel_names, sorted(dataset.labels.items()), files])


def _contents(cache: Path, folder: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """SHA-256 of files. cache: where it is kept, by paths relative to ``folder``, so that both may be moved."""
    before = _kept(cache)
    names = {path: str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path) for path in paths}
    facts: dict[str, list[Any]] = {}
    unread: list[Path] = []
    for path in dict.fromkeys(paths):
        found = _status(path)
        kept = before.get(names[path])
        if kept is not None and kept[:2] == found:
            facts[names[path]] = kept
        else:
            facts[names[path]] = [*found, ""]
            unread.append(path)
    if unread:
        with ThreadPoolExecutor(READERS) as threads:
            hashes = threads.map(_sha256, unread)
            for path, content in track(zip(unread, hashes, strict=True), "Read the data set's files", len(unread)):
                facts[names[path]][2] = content
    if facts != before:
        write_json(cache, {"schema_version": SCHEMA_VERSION, "files": facts})
    return {path: facts[names[path]][2] for path in paths}


def _kept(cache: Path) -> dict[str, list[Any]]:
    try:
        found = read_json(cache, SCHEMA_VERSION)["files"].items()
    except (InvalidData, KeyError, AttributeError):
        return {}
    return {name: facts for name, facts in found if isinstance(facts, list) and [type(one) for one in facts] == FACTS}


def _status(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidData(path, "a file that can be read", str(error.strerror), "Restore it.") from error
    if not stat.S_ISREG(status.st_mode):
        # A pipe would be waited for without end.
        raise InvalidData(path, "a regular file", "none", "Restore it.")
    return [status.st_size, status.st_mtime_ns]


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InvalidData(path, "a file that can be read", str(error.strerror), "Restore it.") from error
