"""Saved images: what is read of a good one, and that each damage is found and named."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
import zlib
from pathlib import Path

import pytest
from saved_images import LABELS, Files, config, docker_layout, layer, link, oci_layout, sha, tar_bytes, write_archive

from nnbox_containers.archive_inspector import ArchiveFacts, inspect_archive
from nnbox_containers.archive_stream import StreamLimits
from nnbox_containers.docker_engine import DockerEngine
from nnunet_box.errors import InvalidData


def refused(path: Path, message: str, limits: StreamLimits | None = None) -> InvalidData:
    with pytest.raises(InvalidData, match=message) as refusal:
        inspect_archive(path, limits or StreamLimits())
    assert refusal.value.file == path
    assert refusal.value.fix
    return refusal.value


@pytest.mark.parametrize("compression", ["none", "gzip", "xz"])
@pytest.mark.parametrize("layout", ["docker", "oci"])
def test_a_good_archive_says_what_it_is(tmp_path, layout, compression):
    files = docker_layout() if layout == "docker" else oci_layout()
    facts = inspect_archive(write_archive(tmp_path / "a.tar", files, compression))
    layers = 2 if layout == "docker" else 1
    settings = config([layer("x")] * layers)
    assert (facts.layout, facts.compression, facts.tags) == (layout, compression, ("a:1",))
    assert (facts.user, facts.architecture, facts.os) == ("1000:1000", "amd64", "linux")
    assert (facts.entrypoint, facts.labels) == (("/run",), LABELS)
    assert facts.config_digest == f"sha256:{sha(settings)}"
    assert [one.digest for one in facts.layers] == [f"sha256:{sha(layer('x'))}"] * layers
    assert all(one.verified for one in facts.layers)
    assert facts.unpacked_bytes == layers * len(layer("x"))
    assert facts.size_bytes == (tmp_path / "a.tar").stat().st_size


def test_a_packed_layer_is_unpacked_and_compared(tmp_path):
    facts = inspect_archive(write_archive(tmp_path / "a.tar", oci_layout(packed=True)))
    assert facts.layers[0].digest == f"sha256:{sha(layer('x'))}"
    assert facts.layers[0].size_bytes == len(layer("x"))


def test_streams_may_follow_one_another(tmp_path):
    content = tar_bytes(docker_layout())
    for pack in (gzip.compress, lzma.compress):
        (tmp_path / "a").write_bytes(pack(content[:700]) + pack(content[700:]) + bytes(8))
        assert inspect_archive(tmp_path / "a").tags == ("a:1",)


def test_the_listener_hears_of_every_byte(tmp_path):
    heard: list[int] = []
    path = write_archive(tmp_path / "a.tar", docker_layout(), "gzip")
    inspect_archive(path, listen=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == path.stat().st_size


def test_a_cut_archive_is_found_wherever_it_is_cut(tmp_path):
    for compression in ("none", "gzip", "xz"):
        whole = write_archive(tmp_path / "whole", docker_layout(), compression).read_bytes()
        for cut in range(0, len(whole) - 1, max(1, len(whole) // 40)):
            # What follows the two blocks of zeros that end a tar only fills its last record.
            if compression == "none" and cut >= -(-len(whole.rstrip(b"\0")) // 512) * 512 + 1024:
                continue
            (tmp_path / "cut").write_bytes(whole[:cut])
            refused(tmp_path / "cut", "docker save")


def test_a_flipped_bit_is_found_wherever_it_counts(tmp_path):
    """In contents and names; of a header's own fields only those that a tar's checksum covers."""
    whole = tar_bytes(oci_layout())
    good = inspect_archive(write_archive(tmp_path / "good", oci_layout()))
    unnoticed = 0
    for at in range(0, len(whole.rstrip(b"\0")), 61):
        flipped = bytearray(whole)
        flipped[at] ^= 4
        (tmp_path / "flipped").write_bytes(flipped)
        try:
            facts = inspect_archive(tmp_path / "flipped")
        except InvalidData:
            continue
        # manifest.json and index.json have no digest: a bit of a tag or a blank is another tag, not a damage. Nor has
        # the padding between members.
        assert (facts.config_digest, facts.layers) == (good.config_digest, good.layers)
        unnoticed += 1
    assert unnoticed < len(whole) / 61 / 2


def manifest_of(files: Files) -> list[dict[str, object]]:
    return json.loads(files["manifest.json"])


def changed(files: Files, **fields: object) -> Files:
    (image,) = manifest_of(files)
    return {**files, "manifest.json": json.dumps([image | fields]).encode()}


def other_images(count: int) -> Files:
    files = docker_layout()
    return {**files, "manifest.json": json.dumps(manifest_of(files) * count).encode()}


def named(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    return entry


def two_in_the_index() -> Files:
    files = oci_layout()
    index = json.loads(files["index.json"])
    index["manifests"].append({"digest": f"sha256:{'0' * 64}", "size": 3})
    return {**files, "index.json": json.dumps(index).encode()}


def another_in_the_index() -> Files:
    files, others = oci_layout(), oci_layout(user="0")
    return {**others, **files, "index.json": others["index.json"]}


def without(files: Files, ending: str) -> Files:
    return {name: content for name, content in files.items() if not name.endswith(ending)}


DAMAGES: dict[str, tuple[Files, str]] = {
    "no image": (other_images(0), "expected one image; found 0"),
    "two images": (other_images(2), "expected one image; found 2"),
    "two in the index": (two_in_the_index(), "one image in index.json"),
    "the index means another": (another_in_the_index(), "name different images"),
    "no manifest": (without(docker_layout(), "manifest.json"), "no manifest.json"),
    "OCI without manifest": (without(oci_layout(), "manifest.json"), "which platforms read, beside the OCI layout"),
    "manifest no JSON": ({**docker_layout(), "manifest.json": b"{"}, "manifest.json, which is not JSON"),
    "manifest no list": ({**docker_layout(), "manifest.json": b"{}"}, "which is no list"),
    "manifest of strings": ({**docker_layout(), "manifest.json": b'["a"]'}, "manifest.json"),
    "no layers named": (changed(docker_layout(), Layers=None), "Layers"),
    "a layer less": (changed(docker_layout(), Layers=["one/layer.tar"]), "1 layers where its configuration names 2"),
    "a layer missing": (without(docker_layout(), "one/layer.tar"), "no member one/layer.tar"),
    "a layer changed": ({**docker_layout(), "one/layer.tar": layer("y")}, "the layer one/layer.tar, whose content"),
    "a blob changed": (
        {**oci_layout(), f"blobs/sha256/{sha(layer('x'))}": layer("y")},
        "blobs/sha256/.*, whose content has the sha256",
    ),
    "another configuration": (
        {**docker_layout(), f"{sha(config([layer('x')] * 2))}.json": config([layer("x")] * 2, user="0")},
        "whose content has the sha256",
    ),
    "a configuration outside": (changed(docker_layout(), Config="../../etc/passwd"), "no member ../../etc/passwd"),
    "absolute name": ({**docker_layout(), "e": named("/etc/passwd")}, "'/etc/passwd', which leads out"),
    "name with ..": ({**docker_layout(), "e": named("a/../../b")}, "'a/../../b', which leads out"),
    "link out": ({**docker_layout(), "l": link("a/l", "../../etc/passwd")}, "a link to .* outside the archive"),
    "absolute link": ({**docker_layout(), "l": link("a/l", "/etc/passwd")}, "a link to .* outside the archive"),
    "link to itself": (
        {**docker_layout(), "one/layer.tar": link("one/layer.tar", "layer.tar")},
        "one/layer.tar, a link to itself",
    ),
    "device": ({**docker_layout(), "d": named("d", tarfile.CHRTYPE)}, "d, which is neither"),
    "the same name twice": (
        {**docker_layout(), "again": named("one/layer.tar")},
        "one/layer.tar twice",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_each_damage_is_named(tmp_path, damage, compression):
    files, message = DAMAGES[damage]
    refused(write_archive(tmp_path / "a.tar", files, compression), message)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(10240), b"PK\x03\x04" + bytes(600), b"\x1f\x8bnot really"])
def test_what_is_no_image_archive_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    refused(tmp_path / "a.tar", "docker save")


def test_a_missing_file_is_named(tmp_path):
    refused(tmp_path / "none.tar", "no such file")


def test_limits_end_in_a_message(tmp_path):
    many = write_archive(tmp_path / "many", docker_layout() | {str(n): b"" for n in range(50)})
    refused(many, "more than 20 members", StreamLimits(members=20))
    large = write_archive(tmp_path / "large", docker_layout() | {"z": bytes(1 << 20)}, "gzip")
    refused(large, "more than 65536 bytes when unpacked", StreamLimits(unpacked_bytes=1 << 16))
    files = oci_layout(packed=True)
    bomb = gzip.compress(bytes(1 << 22))
    refused(
        write_archive(tmp_path / "bomb", files | {f"blobs/sha256/{sha(bomb)}": bomb}),
        "which unpacks .* bytes to more than",
        StreamLimits(unpacked_bytes=1 << 20),
    )


def test_a_bomb_ends_long_before_its_limit(tmp_path):
    """A gibibyte and more of zeros in two megabytes."""
    packer = zlib.compressobj(9, wbits=31)
    entry = tarfile.TarInfo("layer.tar")
    entry.size = 3 << 30
    with (tmp_path / "bomb").open("wb") as out:
        out.write(packer.compress(entry.tobuf()) + packer.flush(zlib.Z_FULL_FLUSH))
        zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # Which stands for itself.
        for _ in range(1200):
            out.write(zeros)
        out.write(packer.flush())
    refused(tmp_path / "bomb", "that unpack to more than")


def test_headers_of_any_size_are_not_read(tmp_path):
    entry = tarfile.TarInfo("././@PaxHeader")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 30
    content = entry.tobuf() + bytes(64 << 20)
    (tmp_path / "a.tar").write_bytes(content)
    refused(tmp_path / "a.tar", "headers take more than")


def test_a_header_that_cannot_be_read_is_not_the_end(tmp_path):
    content = bytearray(tar_bytes(docker_layout()))
    stream = io.BytesIO(bytes(content))
    with tarfile.open(fileobj=stream) as archive:
        last = archive.getmembers()[-1]
    # Everything that is needed comes first; the last header's checksum is broken.
    more = tar_bytes(docker_layout() | {"extra": b"e"})
    at = more.index(b"extra")
    broken = bytearray(more)
    broken[at] ^= 1
    assert last.name == "manifest.json"
    (tmp_path / "a.tar").write_bytes(broken)
    refused(tmp_path / "a.tar", "data after the last member")


@pytest.mark.docker
def test_a_real_archive_has_the_engines_digest(base_image, tmp_path):
    engine = DockerEngine()
    engine.save(base_image, tmp_path / "image.tar")
    facts: ArchiveFacts = inspect_archive(tmp_path / "image.tar")
    known = engine.inspect(base_image)
    assert facts.config_digest == known.identifier
    assert facts.tags == (base_image,)
    assert (facts.user, facts.architecture) == (known.user, known.architecture)
    assert all(one.verified for one in facts.layers)
