"""Test cases laid out as an organiser lays them out, and how a container is then started on them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnbox_containers.engine import ImageFacts, Mount
from nnbox_containers.inside import image_python
from nnbox_containers.profile import Profile
from nnunet_box.contract import Contract
from nnunet_box.errors import UsageError

RUN_FILE = "run.json"
COMMAND_FILE = "command-line.sh"
STOP_SECONDS = 5.0
"""Between SIGTERM and SIGKILL on the strictest platforms (Grand Challenge's shim)."""

# Plays the platform inside the container, as there is no network to ask from outside: starts the image's own command,
# waits until it is healthy, asks it once, ends it.
DRIVER = """
import json, subprocess, sys, time, urllib.error, urllib.request
port, patience, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
def ask(verb, path, seconds):
    request = urllib.request.Request("http://127.0.0.1:%d%s" % (port, path), method=verb)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
told = {"health": None, "invoke": None}
started = time.monotonic()
server = subprocess.Popen(command)
while server.poll() is None and time.monotonic() - started < patience:
    told["health"] = ask("GET", "/health", 5)
    if told["health"] == 200:
        break
    time.sleep(0.05)
told["start_seconds"] = time.monotonic() - started
if told["health"] == 200:
    asked = time.monotonic()
    told["invoke"] = ask("POST", "/invoke", 86400)
    told["invoke_seconds"] = time.monotonic() - asked
stopping = time.monotonic()
server.terminate()
try:
    told["exit_code"] = server.wait(30)
except subprocess.TimeoutExpired:
    server.kill()
    told["exit_code"] = None
told["stop_seconds"] = time.monotonic() - stopping
print("nnbox-driver " + json.dumps(told), flush=True)
sys.exit(0 if told["invoke"] == 201 else 1)
"""
DRIVER_MARK = "nnbox-driver "
HEALTHY_SECONDS = 300
"""How long Grand Challenge waits for ``/health``."""


@dataclass(frozen=True)
class GivenCase:
    """A case to run. channels: how many. put: writes one channel (index, from 0) to a path, in the format of its name.
    output_name: of its prediction where the image reads the test folder as it lies.
    """

    id: str
    channels: int
    put: Callable[[int, Path], None]
    output_name: str


@dataclass(frozen=True)
class Start:
    """One start of the container. expected: below the output, the file of each case; for a socket the folder that has
    to hold exactly one. before: files that lie in the output already.
    """

    cases: tuple[GivenCase, ...]
    mounts: tuple[Mount, ...]
    output: Path
    command: tuple[str, ...]
    entrypoint: tuple[str, ...] | None
    expected: dict[str, str]
    before: frozenset[str] = frozenset()


def stage(
    cases: Sequence[GivenCase],
    profile: Profile,
    contract: Contract | None,
    facts: ImageFacts,
    scratch: Path,
    test_folder: Path | None = None,
    model: Path | None = None,
) -> list[Start]:
    """Lay ``cases`` out below ``scratch`` and say how to start the image on them, once or once for each.

    test_folder: mounted as it lies, where the profile takes a whole folder. model: a bundle, mounted where the profile
    says.

    Raises
    ------
    UsageError: the image does not say what its sockets or channels are called, and the layout needs that.
    """
    groups = [list(cases)] if profile.cases == "folder" else [[case] for case in cases]
    starts = []
    for number, group in enumerate(groups):
        place = scratch / f"start-{number}"
        output = place / "output"
        output.mkdir(parents=True)
        # The container's user is another one than ours, and any.
        output.chmod(0o777)
        place.chmod(0o755)
        if test_folder is not None and profile.layout == "folder" and profile.cases == "folder":
            source, expected = test_folder, {case.id: case.output_name for case in group}
        else:
            source = place / "input"
            expected = {case.id: _lay_out(case, profile, contract, source, output) for case in group}
            _readable(source)
        mounts = profile.mounts(Mount(source, profile.input, read_only=True), Mount(output, profile.output))
        if model is not None and profile.model is not None:
            mounts = (*mounts, Mount(model, profile.model, read_only=True))
        command, entrypoint = _started(profile, facts)
        before = frozenset(_files(output))
        starts.append(Start(tuple(group), mounts, output, command, entrypoint, expected, before))
    return starts


def _lay_out(case: GivenCase, profile: Profile, contract: Contract | None, source: Path, output: Path) -> str:
    """Write one case's files; return where its prediction has to be, below the output."""
    source.mkdir(exist_ok=True)
    names = contract.channels if contract is not None else ()
    if profile.layout in ("sockets", "case-folders") and len(names) != case.channels:
        raise UsageError(
            f"The image's profile.json names {len(names)} channels ({', '.join(names) or 'none'}), and its cases have "
            f"{case.channels}: build it again with nnbox build-submission image."
        )
    if profile.layout == "sockets":
        entries = []
        for index, slug in enumerate(names):
            folder = source / "images" / slug
            folder.mkdir(parents=True)
            case.put(index, folder / f"{case.id}.mha")
            socket = {"slug": slug, "kind": "Image", "relative_path": f"images/{slug}"}
            entries.append({"socket": socket, "file": None, "image": {"name": f"{case.id}.mha"}, "value": None})
        (source / "inputs.json").write_text(json.dumps(entries), encoding="utf-8")
        return f"images/{contract.output_socket if contract is not None else ''}/"
    if profile.layout == "case-folders":
        folder = source / case.id
        folder.mkdir()
        for index, suffix in enumerate(names):
            case.put(index, folder / f"{case.id}-{suffix}.nii.gz")
    elif profile.layout == "files":
        files = [f"image_{index}.nii.gz" for index in range(case.channels)]
        for index, name in enumerate(files):
            case.put(index, output / name)
        words = [word for name in files for word in ("--input", f"{profile.output}/{name}")]
        line = shlex.join(["nnbox-predict", *words, "--output", f"{profile.output}/{case.id}.nii.gz"])
        (output / COMMAND_FILE).write_text(f"{line}\n", encoding="utf-8")
        _readable(output, keep=True)
    else:
        for index in range(case.channels):
            case.put(index, source / f"{case.id}_{index:04d}.nii.gz")
    return f"{case.id}.nii.gz"


def _started(profile: Profile, facts: ImageFacts) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Command and entry point, as the organiser gives them."""
    if profile.entry == "http":
        own = (*facts.entrypoint, *facts.command)
        return ("-c", DRIVER, str(profile.port), str(HEALTHY_SECONDS), *own), (image_python(facts),)
    if profile.entry == "command" and profile.entrypoint is not None:
        # The organiser starts it in the folder of the data.
        line = f"cd {shlex.quote(profile.output)} && exec {shlex.join([*profile.entrypoint, *profile.command])}"
        return ("-c", line), ("/bin/sh",)
    return profile.command, profile.entrypoint


def _readable(folder: Path, keep: bool = False) -> None:
    """Let any user of a container read what was staged."""
    if not keep:
        folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def files_left(start: Start) -> list[str]:
    """What the container left in its output, below it."""
    return [name for name in _files(start.output) if name not in start.before]
