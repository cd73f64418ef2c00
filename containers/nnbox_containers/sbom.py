"""The software bill of materials of an image, as CycloneDX 1.6 JSON (cyclonedx.org/docs/1.6/json).

It names what pip installs: the locked wheels and this program; of the base image only its name and identifier.
"""

from __future__ import annotations

import json
import uuid
import zipfile
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nnbox_containers.lock import wheel_of, wheel_sha256
from nnbox_containers.wheelhouse import Pin
from nnunet_box.errors import InvalidData

LONGEST_LICENCE_NAME = 80
"""Some distributions put the whole text into the field of the licence's name."""
CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""Trove classifiers that mean one SPDX identifier; "BSD License" is not among them, it means several."""


def software_bill(
    title: str,
    version: str,
    pins: Sequence[Pin],
    wheels: Sequence[Path],
    program: Path,
    base_image: str,
    base: str | None,
) -> bytes:
    """The bill: the same values give the same bytes, so there is no time in it.

    title, version: of the image. wheels: those of ``pins``; program: nnunet_box's own wheel. base: the engine's
    identifier of the base image.

    Raises
    ------
    InvalidData: a wheel is no wheel.
    """
    components = [_component(pin.name, pin.version, wheel_of(pin, wheels)) for pin in pins]
    name, number = program.name.split("-")[:2] if program.name.endswith(".whl") else ("nnunet_box", version)
    components.append(_component(name.replace("_", "-"), number, program if program.is_file() else None))
    container: dict[str, Any] = {"type": "container", "bom-ref": f"base:{base_image}", "name": base_image}
    if base is not None:
        container["version"] = base
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "image", "name": title, "version": version}},
        "components": [*components, container],
        "dependencies": [{"ref": "image", "dependsOn": [part["bom-ref"] for part in [*components, container]]}],
    }
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True))}"
    return (json.dumps(bill, indent=1, ensure_ascii=False) + "\n").encode()


def _component(name: str, version: str, wheel: Path | None) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower()}@{quote(version, safe='.-_~')}"
    component: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if wheel is not None:
        component["hashes"] = [{"alg": "SHA-256", "content": wheel_sha256(wheel)}]
        if licences := _licences(_metadata(wheel)):
            component["licenses"] = licences
    return component


def _metadata(wheel: Path) -> Message:
    try:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [
                name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
            ]
            return message_from_bytes(archive.read(name))
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        fix = "Delete it and run the command again."
        raise InvalidData(wheel, "a wheel with its METADATA", f"{error}", fix) from error


def _licences(metadata: Message) -> list[dict[str, Any]]:
    """As a distribution states it: an SPDX expression, else a classifier, else a short name."""
    if expression := metadata.get("License-Expression"):
        return [{"expression": str(expression)}]
    prefix = "License :: OSI Approved :: "
    classified = [str(line) for line in metadata.get_all("Classifier", []) if str(line).startswith(prefix)]
    names = [line.removeprefix(prefix) for line in classified]
    if not names:
        stated = str(metadata.get("License") or "").strip()
        names = [stated] if stated and "\n" not in stated and len(stated) <= LONGEST_LICENCE_NAME else []
    return [{"license": {"id": CLASSIFIED[name]} if name in CLASSIFIED else {"name": name}} for name in names]
