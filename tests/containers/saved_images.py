"""Tiny saved images made by hand, in both layouts of docker save, for the inspector and for verification."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Files = dict[str, bytes | tarfile.TarInfo]
LABELS = {"org.nnunet-box.profile": "folder"}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def layer(text: str) -> bytes:
    """A layer with one file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("opt/file")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


def config(layers: Sequence[bytes], user: str = "1000:1000", architecture: str = "amd64", labels: Any = None) -> bytes:
    settings = {"User": user, "Entrypoint": ["/run"], "Labels": LABELS if labels is None else labels}
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha(content)}" for content in layers]}
    return json.dumps({"architecture": architecture, "os": "linux", "config": settings, "rootfs": rootfs}).encode()


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def docker_layout(tag: str = "a:1", **facts: Any) -> Files:
    """As Docker up to 24 writes it; the second layer is the first again, and so a link."""
    content = layer("x")
    settings = config([content, content], **facts)
    named = [{"Config": f"{sha(settings)}.json", "RepoTags": [tag], "Layers": ["one/layer.tar", "two/layer.tar"]}]
    return {
        "one/layer.tar": content,
        "two/layer.tar": link("two/layer.tar", "../one/layer.tar"),
        f"{sha(settings)}.json": settings,
        "manifest.json": json.dumps(named).encode(),
    }


def oci_layout(tag: str = "a:1", packed: bool = False, **facts: Any) -> Files:
    """As Docker from 25 on writes it, with layers packed by gzip or not."""
    content = layer("x")
    settings = config([content], **facts)
    stored = gzip.compress(content, mtime=0) if packed else content
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": f"sha256:{sha(settings)}", "size": len(settings)},
            "layers": [{"digest": f"sha256:{sha(stored)}", "size": len(stored)}],
        }
    ).encode()
    index = {"schemaVersion": 2, "manifests": [{"digest": f"sha256:{sha(manifest)}", "size": len(manifest)}]}
    blob = "blobs/sha256/{}".format
    named = [{"Config": blob(sha(settings)), "RepoTags": [tag], "Layers": [blob(sha(stored))]}]
    return {
        blob(sha(settings)): settings,
        blob(sha(stored)): stored,
        blob(sha(manifest)): manifest,
        "index.json": json.dumps(index).encode(),
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "manifest.json": json.dumps(named).encode(),
    }


def tar_bytes(files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {"none": bytes, "gzip": gzip.compress, "xz": lzma.compress}


def write_archive(path: Path, files: Files, compression: str = "none") -> Path:
    path.write_bytes(PACKERS[compression](tar_bytes(files)))
    return path
