"""The wheels an image needs: exactly the versions that run here, fetched once and kept."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from nnbox_containers.own_wheel import DISTRIBUTION, own_wheel
from nnunet_box.errors import InvalidData, NnboxError, UsageError
from nnunet_box.files import TEMPORARY_MARK, write_beside
from nnunet_box.progress import say, track

# What runs inside an image: prediction and an adapter. Training, the command line and the report stay outside.
INFERENCE = (
    "numpy",
    "scipy",
    "nibabel",
    "SimpleITK",
    "pydantic",
    "safetensors",
    "blosc2",
    "connected-components-3d",
    "edt",
    "torch",
)
# The entry-point group adapters are found in, by us and inside the image; part of the interface for third parties.
ADAPTERS = "nnunet_box.challenges"
SHOWN_PIP_LINES = 3


@dataclass(frozen=True, order=True)
class Pin:
    """A distribution at the version installed here; normalised name, version with its local part (``+cpu``)."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def inference_pins(adapter: str | None = None) -> tuple[Pin, ...]:
    """Every distribution an image needs beside nnunet_box itself, sorted by name.

    The transitive closure of what prediction needs (and a third party's distribution ``adapter``, if given) over the
    installed metadata, environment markers and extras evaluated for the running Python.

    Raises
    ------
    NnboxError: something needed is not installed here, so its version is unknown.
    """
    pins: dict[str, Pin] = {}
    waiting = [Requirement(name) for name in INFERENCE] + ([Requirement(adapter)] if adapter else [])
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen or key[0] == canonicalize_name(DISTRIBUTION):
            continue
        seen.add(key)
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError as error:
            raise NnboxError(
                f"{requirement} is needed inside the image, not installed here: python -m pip install '{requirement}'"
            ) from error
        pins[key[0]] = Pin(key[0], installed.version)
        waiting += [
            needed
            for needed in map(Requirement, installed.requires or ())
            if needed.marker is None
            or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
        ]
    return tuple(sorted(pins.values()))


def adapter_distribution(challenge: str) -> str | None:
    """Name of the distribution that a challenge's adapter comes from; None where it is nnunet_box itself.

    Raises
    ------
    UsageError: no adapter of that name is installed.
    """
    for point in entry_points(group=ADAPTERS):
        if point.name == challenge:
            name = point.dist.name if point.dist is not None else DISTRIBUTION
            return None if canonicalize_name(name) == canonicalize_name(DISTRIBUTION) else name
    known = sorted({point.name for point in entry_points(group=ADAPTERS)})
    raise UsageError(f"No challenge {challenge!r}. Installed: {', '.join(known) or 'none'}.")


def find_wheel(folder: Path, pin: Pin) -> Path | None:
    """The wheel in ``folder`` that is this pin and runs on this Python; None where there is none."""
    fitting = set(sys_tags())
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except (ValueError, InvalidVersion):
            continue
        if name == canonicalize_name(pin.name) and version == Version(pin.version) and not fitting.isdisjoint(tags):
            return path
    return None


def fill_wheelhouse(folder: Path, adapter: str | None = None) -> tuple[Path, ...]:
    """Bring every wheel an image needs into ``folder``; return them, nnunet_box's own last. Fetches what is missing.

    Raises
    ------
    NnboxError: pip could not fetch a wheel, or a third party's ``adapter`` has no wheel in ``folder``; says what to do.
    """
    pins = inference_pins(adapter)
    missing = [pin for pin in pins if find_wheel(folder, pin) is None]
    if adapter is not None:
        _require_adapter(folder, adapter, missing)
    if missing and find_spec("pip") is None:
        raise NnboxError(f"pip has to fetch {len(missing)} wheels and is not installed: {sys.executable} -m ensurepip")
    if missing:
        say(f"Fetching {len(missing)} of {len(pins)} wheels into {folder}")
    for pin in track(missing, "Fetching wheels"):
        _fetch(folder, pin)
    wheels = [wheel for pin in pins if (wheel := find_wheel(folder, pin)) is not None]
    for wheel in wheels:
        if not zipfile.is_zipfile(wheel):
            raise InvalidData(wheel, "a whole wheel", "a damaged file", "Delete it and run the same command again.")
    name, content = own_wheel()
    own = folder / name
    if not own.is_file() or own.read_bytes() != content:
        with write_beside(own) as temporary:
            temporary.write_bytes(content)
    return (*wheels, own)


def _require_adapter(folder: Path, adapter: str, missing: list[Pin]) -> None:
    # It may exist on no index; fetching a stranger's package of the same name would put foreign code into the image.
    if any(pin.name == canonicalize_name(adapter) for pin in missing):
        version = distribution(adapter).version
        raise UsageError(
            f"The challenge's adapter comes from {adapter} {version}, whose wheel has to lie in {folder}: "
            f"python -m pip wheel --no-deps --wheel-dir {folder} SOURCE_OF_{adapter.upper().replace('-', '_')}"
        )


def _fetch(folder: Path, pin: Pin) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY_MARK) as scratch:
        # The exact version, local part included: 2.13.0+cpu and 2.13.0 are different programs.
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch]
        command = [sys.executable, "-m", "pip", "download", *options, str(pin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell; names of installed packages
        fetched = sorted(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or len(fetched) != 1:
            said = " / ".join(done.stderr.strip().splitlines()[-SHOWN_PIP_LINES:]) or "no wheel came"
            raise NnboxError(
                f"{pin}: pip could not fetch the wheel ({said}). Put it into {folder} from where you installed it: "
                f"python -m pip download --no-deps --dest {folder} '{pin}' (--index-url names another index)."
            )
        with write_beside(folder / fetched[0].name) as temporary:
            fetched[0].replace(temporary)
    if find_wheel(folder, pin) is None:
        raise NnboxError(f"{pin}: pip fetched {fetched[0].name} instead; put the right wheel into {folder}.")
