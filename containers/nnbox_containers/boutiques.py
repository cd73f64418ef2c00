"""The Boutiques descriptor of an image (boutiques.github.io, schema 0.5): how VIP makes the command line from files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from nnbox_containers.dockerfile import COMMAND


def boutiques_descriptor(tag: str, title: str, version: str, channel_names: Sequence[str]) -> str:
    """JSON text: an input file for each channel in order, and the name of the label map to write."""
    identifiers = [_identifier(name, position) for position, name in enumerate(channel_names)]
    inputs: list[dict[str, Any]] = [
        {
            "id": identifier,
            "name": name,
            "description": f"NIfTI image of {name}",
            "type": "File",
            "value-key": f"[{identifier.upper()}]",
            "command-line-flag": "--input",
            "optional": False,
        }
        for identifier, name in zip(identifiers, channel_names, strict=True)
    ]
    inputs.append(
        {
            "id": "output",
            "name": "output",
            "description": "Name of the label map to write",
            "type": "String",
            "value-key": "[OUTPUT]",
            "command-line-flag": "--output",
            "optional": True,
            "default-value": "segmentation.nii.gz",
        }
    )
    keys = " ".join(entry["value-key"] for entry in inputs)
    descriptor = {
        "name": title,
        "description": f"{title}: label map of {', '.join(channel_names)}",
        "tool-version": version,
        "schema-version": "0.5",
        "command-line": f"{COMMAND} {keys}",
        "container-image": {"type": "docker", "image": tag},
        "inputs": inputs,
        "output-files": [
            {
                "id": "segmentation",
                "name": "segmentation",
                "description": "Label map on the grid of the first image",
                "path-template": "[OUTPUT]",
                "optional": False,
            }
        ],
        "suggested-resources": {"cpu-cores": 2},
    }
    return json.dumps(descriptor, indent=1, ensure_ascii=False) + "\n"


def _identifier(name: str, position: int) -> str:
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return word if word and word != "output" else f"channel_{position}"
