"""The build context is the same bytes for the same files, and never in memory as a whole."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from nnbox_containers.context import CHUNK_BYTES, BuildContext, ContextFile
from nnunet_box.errors import InvalidData


def stream(context: BuildContext) -> bytes:
    return b"".join(context.chunks())


def test_a_tar_reader_finds_every_file_and_its_folders(tmp_path):
    large = tmp_path / "weights"
    large.write_bytes(os.urandom(CHUNK_BYTES + 17))
    context = BuildContext((ContextFile("bundle/weights/2d/fold_0", large), ContextFile("Dockerfile", b"FROM x\n")))
    with tarfile.open(fileobj=io.BytesIO(stream(context))) as archive:
        assert archive.getnames() == [
            "bundle",
            "bundle/weights",
            "bundle/weights/2d",
            "Dockerfile",
            "bundle/weights/2d/fold_0",
        ]
        assert archive.extractfile("bundle/weights/2d/fold_0").read() == large.read_bytes()
        assert archive.extractfile("Dockerfile").read() == b"FROM x\n"
        # An engine with umask 0 would make unnamed folders writable for all.
        assert {member.mode for member in archive if member.isdir()} == {0o755}


def test_owner_time_mode_and_order_leave_no_trace(tmp_path):
    def made(folder: Path, mode: int, seconds: int, reverse: bool) -> bytes:
        folder.mkdir()
        for name in ("a", "b", "ü" * 60):
            path = folder / name
            path.write_text(name)
            path.chmod(mode)
            os.utime(path, (seconds, seconds))
        files = [ContextFile(f"wheels/{name}", folder / name) for name in ("a", "b", "ü" * 60)]
        return stream(BuildContext(tuple(reversed(files) if reverse else files)))

    one = made(tmp_path / "one", 0o600, 1, False)
    assert one == made(tmp_path / "two", 0o777, 2_000_000_000, True)
    with tarfile.open(fileobj=io.BytesIO(one)) as archive:
        for member in archive:
            assert (member.uid, member.gid, member.mtime) == (0, 0, 0)
            assert member.mode == (0o755 if member.isdir() else 0o644)


def test_the_context_is_streamed_and_tells_how_far_it_is(tmp_path):
    size = 40 * CHUNK_BYTES
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    context = BuildContext((ContextFile("large", tmp_path / "large"),))
    told: list[int] = []
    tracemalloc.start()
    try:
        total = sum(len(piece) for piece in context.chunks(told.append))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * CHUNK_BYTES
    assert context.size_bytes == size
    assert told[-1] == total
    assert told == sorted(told)


@pytest.mark.parametrize("change", ["grow", "shrink"])
def test_a_file_that_changes_while_it_is_sent_is_refused(tmp_path, change):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(3 * CHUNK_BYTES))
    chunks = BuildContext((ContextFile("weights", path),)).chunks()
    next(chunks)
    with path.open("r+b") as file:
        file.truncate((4 if change == "grow" else 1) * CHUNK_BYTES)
    with pytest.raises(InvalidData, match="stays as it is during the build") as refusal:
        list(chunks)
    assert refusal.value.file == path
