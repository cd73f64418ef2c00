"""The wheels an image needs: exactly the versions that run here, fetched once and kept."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable
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
from nnunet_box.files import write_beside
from nnunet_box.progress import say, track
from nnunet_box.temporary import sweep_left, temporary_place

# What runs inside every image: prediction and an adapter. Training, the command line and the report stay outside.
INFERENCE = ("numpy", "nibabel", "pydantic", "safetensors", "connected-components-3d")
RUNTIMES: dict[str, tuple[str, ...]] = {"cpu": ("openvino",), "cuda": ("torch",)}
"""What runs the networks of an image, by the name of ``--runtime``."""

ITK = ("SimpleITK",)
"""Reads and writes NRRD. NIfTI and MetaImage need nothing beside numpy and nibabel."""

ITK_SUFFIXES = (".nrrd",)
# OpenVINO requires a package that reports each import to its maker; it goes on without, and so does an image.
LEFT_OUT = frozenset({"openvino-telemetry"})
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


@dataclass(frozen=True)
class Needs:
    """What decides which wheels an image holds.

    runtime: ``cpu`` or ``cuda``. itk: whether files that only ITK reads or writes are met. adapter: a third party's
    distribution that the challenge's adapter comes from.
    """

    runtime: str = "cuda"
    itk: bool = False
    adapter: str | None = None

    @property
    def distributions(self) -> tuple[str, ...]:
        """What an image needs by name, without what that requires."""
        return (*INFERENCE, *RUNTIMES[self.runtime], *(ITK if self.itk else ()))


def image_needs(runtime: str, challenge: str | None, output_suffixes: Iterable[str] = ()) -> Needs:
    """What an image for a challenge needs with a runtime, and with a profile that takes ``output_suffixes``.

    A challenge of ours says the ending of its submission's files; a third party's may meet any format, so its image can
    read them all.

    Raises
    ------
    UsageError: no adapter of that name is installed.
    """
    adapter = adapter_distribution(challenge) if challenge is not None else None
    return Needs(
        runtime=runtime,
        itk=adapter is not None or not set(ITK_SUFFIXES).isdisjoint(output_suffixes),
        adapter=adapter,
    )


def choose_runtime(name: str = "auto") -> str:
    """``cpu`` or ``cuda``. Of ``auto``: cuda where the torch installed here is built for it, whose wheels go into the
    image as they are; else cpu, which needs OpenVINO here; else the torch there is, which runs on a CPU too.

    Raises
    ------
    UsageError: an unknown name.
    """
    if name not in ("auto", *RUNTIMES):
        raise UsageError(f"--runtime {name}: there are auto, {', '.join(RUNTIMES)}.")
    if name != "auto":
        return name
    return "cuda" if torch_has_cuda() or find_spec("openvino") is None else "cpu"


def torch_has_cuda() -> bool:
    """Whether the torch installed here requires CUDA's libraries or names them in its version."""
    try:
        torch = distribution("torch")
    except PackageNotFoundError:
        return False
    return "+cu" in torch.version or any(
        needed.name.startswith(("nvidia-", "cuda-"))
        for needed in map(Requirement, torch.requires or ())
        if needed.marker is None or needed.marker.evaluate({"extra": ""})
    )


def inference_pins(needs: Needs) -> tuple[Pin, ...]:
    """Every distribution an image needs beside nnunet_box itself, sorted by name.

    The transitive closure over the installed metadata, environment markers and extras evaluated for the running Python.

    Raises
    ------
    NnboxError: something needed is not installed here, so its version is unknown.
    """
    pins: dict[str, Pin] = {}
    waiting = [Requirement(name) for name in (*needs.distributions, *([needs.adapter] if needs.adapter else []))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen or key[0] == canonicalize_name(DISTRIBUTION) or key[0] in LEFT_OUT:
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


def build_pip() -> Pin:
    """The pip that installs the wheels while an image is built; it is not in the image.

    Raises
    ------
    NnboxError: pip is not installed here.
    """
    try:
        return Pin("pip", distribution("pip").version)
    except PackageNotFoundError as error:
        raise NnboxError(
            f"pip installs the wheels of an image and is not here: {sys.executable} -m ensurepip"
        ) from error


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


def fill_wheelhouse(folder: Path, needs: Needs) -> tuple[Path, ...]:
    """Bring every wheel an image needs into ``folder``; return them, nnunet_box's own last and before it that of the
    pip which installs them: the base image need not have one. Fetches what is missing.

    Raises
    ------
    NnboxError: pip could not fetch a wheel, or a third party's ``adapter`` has no wheel in ``folder``; says what to do.
    InvalidData: a wheel in ``folder`` is damaged.
    """
    pins = (*inference_pins(needs), build_pip())
    missing = [pin for pin in pins if find_wheel(folder, pin) is None]
    if needs.adapter is not None:
        _require_adapter(folder, needs.adapter, missing)
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
    sweep_left(folder)
    with temporary_place(folder, "wheel") as scratch:
        # The exact version, local part included: 2.13.0+cpu and 2.13.0 are different programs.
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(scratch)]
        command = [sys.executable, "-m", "pip", "download", *options, str(pin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell; names of installed packages
        fetched = sorted(scratch.glob("*.whl"))
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
