"""What an image holds that an engine cannot tell: asked of the image itself, by its own Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from nnbox_containers.engine import ContainerEngine, ImageFacts, RunLimits, StartFailed
from nnunet_box.bundle import BUNDLE_FILE, Bundle
from nnunet_box.contract import CONTRACT_FILE, Contract
from nnunet_box.errors import InvalidData

HOME = "/opt/nnbox"
FALLBACK_PYTHON = "python3"
SECONDS = 60.0
# Only the standard library: the question is also put to images that are not ours, or are broken.
PROGRAM = f"""
import hashlib, json, pathlib
def text(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return None
lines = [line.split(":") for line in (text("/etc/passwd") or "").splitlines()]
passwd = {{fields[2]: fields[5] for fields in lines if len(fields) > 6}}
contract, bundle = text("{HOME}/{CONTRACT_FILE}"), text("{HOME}/bundle/{BUNDLE_FILE}")
lock = text("{HOME}/requirements.txt")
digest = None if lock is None else hashlib.sha256(lock.encode()).hexdigest()
print(json.dumps({{"passwd": passwd, "contract": contract, "bundle": bundle, "lock": digest}}))
"""


@dataclass(frozen=True)
class Inside:
    """passwd: numbers of users to their home folders. contract: the image's ``profile.json``. bundle: its model's
    ``bundle.json``. lock_sha256: of its ``requirements.txt``. They are None where there is none; ``problem`` then says
    why, if more is known.
    """

    passwd: Mapping[str, str]
    contract: Contract | None = None
    bundle: Bundle | None = None
    lock_sha256: str | None = None
    problem: str = ""


def image_python(facts: ImageFacts) -> str:
    """The Python an image starts its program with."""
    first = facts.entrypoint[0] if facts.entrypoint else ""
    return first if first.rsplit("/", 1)[-1].startswith("python") else FALLBACK_PYTHON


def look_inside(engine: ContainerEngine, image: str, facts: ImageFacts) -> Inside:
    """Start the image once, with nothing mounted, and read its passwd, ``profile.json`` and ``bundle.json``.

    An image without Python, or with files of another version, is one of which nothing is known; that is for checks to
    say.
    """
    limits = RunLimits(read_only=True, drop_capabilities=True, no_new_privileges=True, seconds=SECONDS)
    try:
        result = engine.run(image, ["-I", "-c", PROGRAM], limits=limits, entrypoint=[image_python(facts)])
    except StartFailed as error:
        return Inside({}, problem=str(error))
    try:
        told = json.loads(result.stdout.strip().splitlines()[-1])
        passwd = {str(user): str(home) for user, home in told["passwd"].items()}
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        said = (result.stderr.strip().splitlines() or ["nothing"])[-1]
        return Inside({}, problem=f"its Python ended with {result.exit_code} and said {said!r}")
    try:
        contract = None if told.get("contract") is None else Contract.model_validate_json(told["contract"])
        bundle = None if told.get("bundle") is None else Bundle.model_validate_json(told["bundle"])
    except (ValidationError, InvalidData) as error:
        return Inside(passwd, problem=f"it was built by another nnunet_box: {str(error).splitlines()[0]}")
    return Inside(passwd, contract, bundle, told.get("lock"))
