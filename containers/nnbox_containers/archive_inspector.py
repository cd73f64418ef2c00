"""What a saved image archive holds, without an engine: the checks a platform makes before it takes an upload.

Both layouts docker save writes are read: that of Docker up to 24 (a folder a layer) and the OCI layout of 25 and later
(``blobs/sha256``). ``manifest.json`` is in both, and is what platforms read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnbox_containers.archive_stream import (
    AGAIN,
    Compression,
    Listen,
    Member,
    StreamLimits,
    compression_of,
    damaged,
    read_members,
)
from nnunet_box.errors import InvalidData

Layout = Literal["docker", "oci"]
MANIFEST, INDEX, OCI_MARK = "manifest.json", "index.json", "oci-layout"
ZSTD = b"\x28\xb5\x2f\xfd"
BLOBS = "blobs/sha256/"
ATTESTATION = "vnd.docker.reference.type"
DEFAULT_LIMITS = StreamLimits()
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class LayerFacts:
    """One layer. digest: ``sha256:`` of its tar, unpacked. size_bytes: of that tar. verified: whether the content has
    that digest; False only for a kind of compression that is not read here (zstd), where the blob's own digest was
    compared.
    """

    digest: str
    size_bytes: int
    verified: bool


@dataclass(frozen=True)
class ArchiveFacts:
    """The one image of an archive. config_digest: the image's identifier. size_bytes: of the file. unpacked_bytes: of
    all layers.
    """

    file: Path
    layout: Layout
    compression: Compression
    tags: tuple[str, ...]
    config_digest: str
    user: str
    architecture: str
    os: str
    entrypoint: tuple[str, ...]
    labels: Mapping[str, str]
    layers: tuple[LayerFacts, ...]
    size_bytes: int
    unpacked_bytes: int


class _Foreign(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Image(_Foreign):
    config: str = Field(alias="Config")
    tags: tuple[str, ...] | None = Field(None, alias="RepoTags")
    layers: tuple[str, ...] = Field(alias="Layers")


class _Settings(_Foreign):
    user: str = Field("", alias="User")
    entrypoint: tuple[str, ...] | None = Field(None, alias="Entrypoint")
    labels: dict[str, str] | None = Field(None, alias="Labels")


class _Layers(_Foreign):
    diff_ids: tuple[str, ...]


class _Config(_Foreign):
    architecture: str
    os: str
    config: _Settings
    rootfs: _Layers


class _Descriptor(_Foreign):
    digest: str
    size: int
    annotations: dict[str, str] = {}


class _Index(_Foreign):
    manifests: tuple[_Descriptor, ...]


class _Manifest(_Foreign):
    config: _Descriptor
    layers: tuple[_Descriptor, ...]


def inspect_archive(
    path: Path, limits: StreamLimits = DEFAULT_LIMITS, listen: Listen = lambda read: None
) -> ArchiveFacts:
    """Read an archive once, hash everything in it, and return what its one image is.

    listen: is told how many bytes of the file have been read.

    Raises
    ------
    InvalidData: missing; not a tar; cut off or damaged; no image or several; a layer or a configuration that is missing
    or has not the digest it is named by; members that lead out of the archive; more than ``limits`` allow.
    """
    if not path.is_file():
        raise InvalidData(path, "an image archive", "no such file", AGAIN)
    members = read_members(path, limits, listen)
    if MANIFEST not in members:
        beside = ", which platforms read, beside the OCI layout" if INDEX in members else ""
        raise damaged(path, f"no {MANIFEST}{beside}")
    images = _json(path, _resolve(path, members, MANIFEST))
    if not isinstance(images, list):
        raise damaged(path, f"{MANIFEST}, which is no list")
    if len(images) != 1:
        raise InvalidData(path, "one image", f"{len(images)}", "Save one image by its tag, and it alone.")
    image = _model(path, MANIFEST, _Image, images[0])
    layout: Layout = "oci" if OCI_MARK in members or image.config.startswith(BLOBS) else "docker"
    _check_blobs(path, members)
    config_file = _resolve(path, members, image.config)
    digest = config_file.sha256
    named = image.config.rsplit("/", 1)[-1].removesuffix(".json")
    if named != digest:
        raise damaged(path, f"{image.config}, whose content has the sha256 {digest}")
    config = _model(path, image.config, _Config, _json(path, config_file))
    stored = [_resolve(path, members, name) for name in image.layers]
    if len(stored) != len(config.rootfs.diff_ids):
        raise damaged(path, f"{len(stored)} layers where its configuration names {len(config.rootfs.diff_ids)}")
    if layout == "oci" and INDEX in members:
        _check_index(path, members, f"sha256:{digest}", stored)
    layers = tuple(_layer(path, member, name) for member, name in zip(stored, config.rootfs.diff_ids, strict=True))
    return ArchiveFacts(
        file=path,
        layout=layout,
        compression=compression_of(path),
        tags=image.tags or (),
        config_digest=f"sha256:{digest}",
        user=config.config.user,
        architecture=config.architecture,
        os=config.os,
        entrypoint=config.config.entrypoint or (),
        labels=config.config.labels or {},
        layers=layers,
        size_bytes=path.stat().st_size,
        unpacked_bytes=sum(layer.size_bytes for layer in layers),
    )


def _layer(path: Path, member: Member, digest: str) -> LayerFacts:
    if f"sha256:{member.unpacked_sha256}" == digest:
        return LayerFacts(digest, member.unpacked_bytes, True)
    # What is named by its digest was compared with it; its compression is one that cannot be looked into here.
    if member.name.startswith(BLOBS) and member.head == ZSTD:
        return LayerFacts(digest, member.size_bytes, False)
    raise damaged(path, f"the layer {member.name}, whose content has not the digest {digest}")


def _check_blobs(path: Path, members: Mapping[str, Member]) -> None:
    for name, member in members.items():
        if name.startswith(BLOBS) and member.link is None and name.removeprefix(BLOBS) != member.sha256:
            raise damaged(path, f"{name}, whose content has the sha256 {member.sha256}")


def _check_index(path: Path, members: Mapping[str, Member], config: str, layers: Sequence[Member]) -> None:
    """The OCI side of the archive has to mean the same one image as ``manifest.json``: loaders differ in which they
    read.
    """
    index = _model(path, INDEX, _Index, _json(path, _resolve(path, members, INDEX)))
    images = [entry for entry in index.manifests if ATTESTATION not in entry.annotations]
    if len({entry.digest for entry in images}) != 1:
        raise InvalidData(path, "one image in index.json", f"{len(images)}", "Save one image by its tag, and it alone.")
    name = _blob(images[0].digest)
    value = _json(path, _resolve(path, members, name))
    if isinstance(value, dict) and "manifests" in value:
        nested = _model(path, name, _Index, value)
        single = [entry for entry in nested.manifests if ATTESTATION not in entry.annotations]
        if len(single) != 1:
            found = f"{len(single)}, for several platforms"
            raise InvalidData(path, "one image in index.json", found, "Build and save it for linux/amd64 alone.")
        name = _blob(single[0].digest)
        value = _json(path, _resolve(path, members, name))
    manifest = _model(path, name, _Manifest, value)
    if manifest.config.digest != config or [entry.digest for entry in manifest.layers] != [
        f"sha256:{layer.sha256}" for layer in layers
    ]:
        raise damaged(path, "manifest.json and index.json, which name different images")


def _blob(digest: str) -> str:
    return f"{BLOBS}{digest.removeprefix('sha256:')}"


def _resolve(path: Path, members: Mapping[str, Member], name: str) -> Member:
    seen = set()
    while name not in seen:
        seen.add(name)
        member = members.get(name)
        if member is None:
            raise damaged(path, f"no member {name}, which it names")
        if member.link is None:
            return member
        name = member.link
    raise damaged(path, f"{name}, a link to itself")


def _json(path: Path, member: Member) -> Any:
    if member.content is None:
        raise damaged(path, f"{member.name} of {member.size_bytes} bytes, where a small JSON file belongs")
    try:
        return json.loads(member.content)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise damaged(path, f"{member.name}, which is not JSON ({error})") from error


def _model(path: Path, name: str, model: type[Model], value: Any) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise damaged(path, f"{name}: {where or 'its content'}: {first['msg']}") from error
