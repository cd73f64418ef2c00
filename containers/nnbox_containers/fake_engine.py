"""An engine in memory, for tests of everything around a build: it reads the context, keeps the facts of the image."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nnbox_containers.archive_file import writer
from nnbox_containers.context import BuildContext
from nnbox_containers.engine import (
    DEFAULT_LIMITS,
    BuildFailed,
    ImageFacts,
    ImageMissing,
    LineListener,
    Mount,
    RunLimits,
    RunResult,
    SavedListener,
)
from nnunet_box.errors import InvalidData
from nnunet_box.files import write_beside

Answer = Callable[[str, Sequence[str], RunLimits], RunResult]
_LABEL = re.compile(r'"((?:[^"\\]|\\.)*)"="((?:[^"\\]|\\.)*)"')


def _exits_well(image: str, command: Sequence[str], limits: RunLimits) -> RunResult:
    return RunResult(0, "", "")


@dataclass
class FakeEngine:
    """A ``ContainerEngine`` without containers.

    images: what it has, by tag. answer: decides what a container says. The instructions of a Dockerfile that
    change an image's configuration are understood, and COPY of what the context lacks fails, as with a real engine.
    """

    images: dict[str, ImageFacts] = field(default_factory=dict)
    answer: Answer = _exits_well

    def build(self, context: BuildContext, tag: str, listen: LineListener) -> str:
        content = b"".join(context.chunks())
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            names = archive.getnames()
            member = archive.extractfile("Dockerfile") if "Dockerfile" in names else None
            if member is None:
                raise BuildFailed(f"{tag}: the build failed: no Dockerfile in the context")
            instructions = _instructions(member.read().decode())
        config = _Config()
        for number, (word, rest) in enumerate(instructions, start=1):
            listen(f"Step {number}/{len(instructions)} : {word} {rest}")
            if word == "COPY" and not rest.startswith("--from") and rest.split()[0].rstrip("/") not in names:
                raise BuildFailed(f"{tag}: the build failed at {f'{word} {rest}'!r}: file not found in build context")
            # A stage inherits nothing from the stage above it.
            config = _Config() if word == "FROM" else config.changed(word, rest)
        identifier = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.images[tag] = ImageFacts(
            identifier, (tag,), len(content), architecture="amd64", layers=(identifier,), **asdict(config)
        )
        return identifier

    def inspect(self, image: str) -> ImageFacts:
        try:
            return self.images[image]
        except KeyError:
            raise ImageMissing(f"Image {image} is not on this machine.") from None

    def run(
        self,
        image: str,
        command: Sequence[str] = (),
        mounts: Sequence[Mount] = (),
        limits: RunLimits = DEFAULT_LIMITS,
        entrypoint: Sequence[str] | None = None,
        platform: str | None = None,
    ) -> RunResult:
        facts = self.inspect(image)
        # As with docker: the image's own command goes with its own entry point only.
        arguments = command or (facts.command if entrypoint is None else ())
        return self.answer(image, [*(facts.entrypoint if entrypoint is None else entrypoint), *arguments], limits)

    def save(self, image: str, archive: Path, listen: SavedListener | None = None) -> None:
        facts = self.inspect(image)
        config = json.dumps(asdict(facts), sort_keys=True).encode()
        manifest = json.dumps([{"RepoTags": [image], "Config": "config.json", "Layers": []}]).encode()
        with (
            write_beside(archive) as temporary,
            writer(temporary) as file,
            tarfile.open(fileobj=file, mode="w|") as out,
        ):
            for name, content in (("config.json", config), ("manifest.json", manifest)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                out.addfile(entry, io.BytesIO(content))
            if listen is not None:
                listen(len(config) + len(manifest), facts.size_bytes)

    def load(self, archive: Path) -> str:
        if not archive.is_file():
            raise InvalidData(archive, "an image archive", "no such file", "Correct the path.")
        try:
            with tarfile.open(archive) as file:
                manifest, config = (_member(file, name) for name in ("manifest.json", "config.json"))
        except (OSError, tarfile.TarError, KeyError, ValueError) as error:
            said = " ".join(str(error).split())
            raise InvalidData(archive, "an image archive", said, "Build and save the image again.") from error
        name: str = manifest[0]["RepoTags"][0]
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
        }
        self.images[name] = ImageFacts(**fields)
        return name

    def remove(self, image: str) -> None:
        self.inspect(image)
        del self.images[image]


@dataclass(frozen=True)
class _Config:
    """What the instructions of one stage say of the image."""

    user: str = ""
    entrypoint: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    working_directory: str = ""
    exposed_ports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def changed(self, word: str, rest: str) -> _Config:
        match word:
            case "USER":
                return replace(self, user=rest)
            case "WORKDIR":
                return replace(self, working_directory=rest)
            case "ENTRYPOINT":
                return replace(self, entrypoint=tuple(json.loads(rest)))
            case "CMD":
                return replace(self, command=tuple(json.loads(rest)))
            case "EXPOSE":
                ports = tuple(port if "/" in port else f"{port}/tcp" for port in rest.split())
                return replace(self, exposed_ports=tuple(sorted({*self.exposed_ports, *ports})))
            case "LABEL":
                added = {_plain(key): _plain(value) for key, value in _LABEL.findall(rest)}
                return replace(self, labels={**self.labels, **added})
            case "ENV":
                named = dict(pair.partition("=")[::2] for pair in shlex.split(rest))
                return replace(self, environment={**self.environment, **named})
        return self


def _member(file: tarfile.TarFile, name: str) -> Any:
    member = file.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is no file")
    return json.loads(member.read())


def _instructions(dockerfile: str) -> list[tuple[str, str]]:
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
