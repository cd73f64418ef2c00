"""An engine in memory, for tests of everything around a build: it reads the context, keeps the facts of the image."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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

    images: what it has, by tag. answer: decides what a container says. The instructions USER, ENTRYPOINT and LABEL of a
    Dockerfile are understood, and COPY of what the context lacks fails, as with a real engine.
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
        user, entrypoint = "", ()
        labels: dict[str, str] = {}
        for number, (word, rest) in enumerate(instructions, start=1):
            listen(f"Step {number}/{len(instructions)} : {word} {rest}")
            if word == "COPY" and not rest.startswith("--from") and rest.split()[0].rstrip("/") not in names:
                raise BuildFailed(f"{tag}: the build failed at {f'{word} {rest}'!r}: file not found in build context")
            if word == "FROM":  # a stage inherits nothing from the stage above it
                user, entrypoint, labels = "", (), {}
            user = rest if word == "USER" else user
            entrypoint = tuple(json.loads(rest)) if word == "ENTRYPOINT" else entrypoint
            if word == "LABEL":
                labels |= {_plain(key): _plain(value) for key, value in _LABEL.findall(rest)}
        identifier = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.images[tag] = ImageFacts(identifier, (tag,), len(content), user, "amd64", entrypoint, labels)
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
    ) -> RunResult:
        facts = self.inspect(image)
        return self.answer(image, [*(facts.entrypoint if entrypoint is None else entrypoint), *command], limits)

    def save(self, image: str, archive: Path) -> None:
        facts = self.inspect(image)
        manifest = json.dumps([{"RepoTags": [image], "Config": facts.identifier}]).encode()
        with write_beside(archive) as temporary, tarfile.open(temporary, "w") as out:
            entry = tarfile.TarInfo("manifest.json")
            entry.size = len(manifest)
            out.addfile(entry, io.BytesIO(manifest))

    def load(self, archive: Path) -> str:
        try:
            with tarfile.open(archive) as file:
                member = file.extractfile("manifest.json")
                manifest = json.loads(member.read()) if member else []
        except (tarfile.TarError, KeyError) as error:
            raise InvalidData(archive, "an image archive", str(error), "Build and save the image again.") from error
        name: str = manifest[0]["RepoTags"][0]
        self.images[name] = ImageFacts(manifest[0]["Config"], (name,), archive.stat().st_size, "", "amd64", (), {})
        return name

    def remove(self, image: str) -> None:
        self.inspect(image)
        del self.images[image]


def _instructions(dockerfile: str) -> list[tuple[str, str]]:
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
