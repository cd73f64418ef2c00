"""The build context: a tar stream that holds the same bytes whenever it holds the same files."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nnunet_box.errors import InvalidData

CHUNK_BYTES = 1 << 20
FILE_MODE, FOLDER_MODE = 0o644, 0o755
"""The mode of a program is that of a folder."""


@dataclass(frozen=True)
class ContextFile:
    """One file of the context: its name inside, where its bytes come from (a path on disk, or the bytes), and whether
    it is a program.
    """

    name: str
    source: Path | bytes
    executable: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class BuildContext:
    """The files an engine gets to build from, the ``Dockerfile`` among them.

    The stream is independent of the machine: sorted names, owner 0:0, time 0, modes 0644 and 0755, so that an engine's
    layer cache hits for equal files and a model of several hundred megabytes is read from disk piece by piece.
    """

    files: tuple[ContextFile, ...]

    def names(self) -> list[str]:
        """Names of all files, sorted as the stream holds them."""
        return sorted(file.name for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together, without the tar's own overhead."""
        return sum(file.size_bytes for file in self.files)

    def chunks(self, sent: Callable[[int], None] | None = None) -> Iterator[bytes]:
        """Yield the tar, telling ``sent`` how many bytes have gone out so far.

        Raises
        ------
        InvalidData: a file changed its length while it was read, so the archive would be corrupt.
        """
        total = 0
        for piece in self._pieces():
            yield piece
            total += len(piece)
            if sent is not None:
                sent(total)

    def _pieces(self) -> Iterator[bytes]:
        # Folders are named explicitly: an engine that makes them itself does so with its own umask, and a folder that
        # everybody may write in the image would be the result.
        folders = {str(parent) for file in self.files for parent in PurePosixPath(file.name).parents} - {"."}
        for folder in sorted(folders):
            yield _header(folder, 0, folder=True)
        for file in sorted(self.files, key=lambda file: file.name):
            size = file.size_bytes
            yield _header(file.name, size, executable=file.executable)
            yield from _content(file, size)
            yield bytes(-size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int, folder: bool = False, executable: bool = False) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    entry.mode = FOLDER_MODE if folder or executable else FILE_MODE
    return entry.tobuf(tarfile.PAX_FORMAT)


def _content(file: ContextFile, size: int) -> Iterator[bytes]:
    if isinstance(file.source, bytes):
        yield file.source
        return
    read = 0
    with file.source.open("rb") as stream:
        while read < size and (piece := stream.read(min(CHUNK_BYTES, size - read))):
            read += len(piece)
            yield piece
        grown = bool(stream.read(1))
    if read != size or grown:
        raise InvalidData(
            file.source,
            f"a file of {size} bytes that stays as it is during the build",
            f"{'more than ' if grown else ''}{read} bytes",
            "Wait until nothing writes to it and build again.",
        )
