"""What is noted of an image that was built, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nnunet_box.files import write_json

IMAGE_RECORD = ".image.json"


def write_image_record(submissions: Path, dataset: str, image: Mapping[str, Any]) -> Path:
    """Note an image of ``dataset`` in the folder ``submissions``, under its tag; an older one of that tag goes. image:
    as ``nnbox build-submission image --json`` tells it.

    Raises
    ------
    NnboxError: the disk is full.
    """
    name = str(image["tag"]).rsplit("/", 1)[-1].replace(":", "-")
    file = submissions / f"{name}{IMAGE_RECORD}"
    built = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    write_json(file, {"schema_version": 1, "dataset": dataset, "built": built, **image})
    return file
