"""One pass over a tar that nobody vouches for: plain, gzip or xz, nothing extracted, sizes held against limits."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from nnunet_box.errors import InvalidData

Compression = Literal["none", "gzip", "xz"]
Listen = Callable[[int], None]
"""Told how many bytes of the file have been read."""

CHUNK = 1 << 20
GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
XZ_MEMORY = 256 << 20
"""What unpacking xz may take; its highest preset takes 65 MiB."""

MOST_HEADER = 1 << 20
"""Bytes of a member's headers; long names and times are a few kilobytes, and tarfile keeps them in memory."""

KEPT = 4 << 20
"""A member up to this size is kept: configurations and manifests are JSON of some kilobytes."""

MOST_KEPT = 64 << 20
RATIO_FROM = 1 << 30
MOST_RATIO = 200
"""Programs and weights shrink two to four times. More than this over a gigabyte is nobody's image."""

END = 2 * tarfile.BLOCKSIZE
AGAIN = "Save the image again: docker save IMAGE | gzip > FILE.tar.gz"


@dataclass(frozen=True)
class StreamLimits:
    """members: entries of the tar. unpacked_bytes: the tar's own size, and that of each compressed layer in it."""

    members: int = 10_000
    unpacked_bytes: int = 128 << 30


@dataclass(frozen=True)
class Member:
    """One entry. link: the member a link stands for, as a name in the archive; None for a file. size_bytes, sha256: of
    the content as it lies in the tar. unpacked_bytes, unpacked_sha256: of what a gzip stream holds, and of the content
    itself where it is none. head: the first four bytes. content: kept where it is small.
    """

    name: str
    link: str | None = None
    size_bytes: int = 0
    sha256: str = ""
    unpacked_bytes: int = 0
    unpacked_sha256: str = ""
    head: bytes = b""
    content: bytes | None = None


def damaged(path: Path, found: str, fix: str = AGAIN) -> InvalidData:
    """The refusal of an archive."""
    return InvalidData(path, "an image archive as docker save writes it", found, fix)


def compression_of(path: Path) -> Compression:
    """How a file is packed, by its first bytes and not by its name."""
    with path.open("rb") as stream:
        head = stream.read(len(XZ))
    return "gzip" if head.startswith(GZIP) else "xz" if head == XZ else "none"


def read_members(path: Path, limits: StreamLimits, listen: Listen) -> dict[str, Member]:
    """Every entry but folders, by name, with sizes and digests; the file is read once, from its start to its end.

    Raises
    ------
    InvalidData: no tar; one that is cut off or damaged; a name that leads out of it, or twice the same; a device, pipe
    or sparse file; more than the limits allow.
    """
    try:
        with path.open("rb") as file, _Unpacked(path, file, limits, listen) as stream:
            return _members(path, stream, limits)
    except tarfile.TarError as error:
        raise damaged(path, f"no tar, or one that is cut off or damaged ({error})") from error


def _members(path: Path, stream: _Unpacked, limits: StreamLimits) -> dict[str, Member]:
    members: dict[str, Member] = {}
    end = count = kept = 0
    # Opening it reads the first header already.
    stream.allow(MOST_HEADER)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=64 * tarfile.BLOCKSIZE) as tar:
        while True:
            stream.allow(MOST_HEADER)
            entry = tar.next()
            stream.allow(None)
            if entry is None:
                break
            count += 1
            if count > limits.members:
                raise damaged(path, f"more than {limits.members} members")
            name = _safe_name(path, entry.name)
            end = entry.offset_data + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if entry.isdir():
                continue
            if name in members:
                raise damaged(path, f"{name} twice; readers disagree on which one counts")
            if entry.issym() or entry.islnk():
                members[name] = Member(name, _link_target(path, entry))
                end = entry.offset_data
                continue
            if not entry.isreg() or entry.issparse():
                raise damaged(path, f"{name}, which is neither a file, a folder nor a link")
            source = tar.extractfile(entry)
            assert source is not None
            members[name] = _content(path, name, iter(lambda source=source: source.read(CHUNK), b""), limits)  # type: ignore[misc]
            kept += len(members[name].content or b"")
            if kept > MOST_KEPT:
                raise damaged(path, f"more than {MOST_KEPT >> 20} MiB of small files")
    _check_end(path, stream, end)
    return members


def _check_end(path: Path, stream: _Unpacked, end: int) -> None:
    """After the last member nothing but the zeros that end a tar: tarfile itself is content with a header it cannot
    read, and with a file cut between two members.
    """
    while stream.read(CHUNK):
        pass
    if stream.last_written > end:
        raise damaged(path, "data after the last member, or a member's header that is damaged")
    if stream.position < end + END:
        raise damaged(path, "a tar that is cut off: the zeros that end one are missing")


def _content(path: Path, name: str, pieces: Iterator[bytes], limits: StreamLimits) -> Member:
    stored, unpacked = hashlib.sha256(), hashlib.sha256()
    size = length = 0
    kept = bytearray()
    inflater: Any
    head, inflater = b"", None
    for piece in pieces:
        head = head or piece[:4]
        if size == 0 and piece.startswith(GZIP):
            inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        stored.update(piece)
        size += len(piece)
        if size <= KEPT:
            kept += piece
        waiting = piece if inflater is not None else b""
        while waiting and not inflater.eof:
            try:
                out = inflater.decompress(waiting, CHUNK)
            except zlib.error as error:
                raise damaged(path, f"{name}, a gzip stream that is damaged ({error})") from error
            unpacked.update(out)
            length += len(out)
            waiting = inflater.unconsumed_tail
            if length > limits.unpacked_bytes or (length > RATIO_FROM and length > MOST_RATIO * size):
                raise damaged(path, f"{name}, which unpacks {size} bytes to more than {length}")
    if inflater is not None and not inflater.eof:
        raise damaged(path, f"{name}, a gzip stream that is cut off")
    whole = bytes(kept) if size <= KEPT else None
    if inflater is None:
        return Member(name, None, size, stored.hexdigest(), size, stored.hexdigest(), head, whole)
    return Member(name, None, size, stored.hexdigest(), length, unpacked.hexdigest(), head, whole)


def _safe_name(path: Path, name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise damaged(
            path, f"a member named {name!r}, which leads out of the archive", "Do not load it; save it again."
        )
    return str(PurePosixPath(name))


def _link_target(path: Path, entry: tarfile.TarInfo) -> str:
    """The member a link stands for. Docker before 25 writes a layer once and links to it where it comes again."""
    here = PurePosixPath(entry.name).parent if entry.issym() else PurePosixPath()
    parts: list[str] = []
    for part in (here / entry.linkname).parts:
        if part == ".." and parts:
            parts.pop()
        elif part in ("..", "/"):
            found = f"{entry.name}, a link to {entry.linkname!r} outside the archive"
            raise damaged(path, found, "Do not load it; save it again.")
        else:
            parts.append(part)
    return "/".join(parts)


class _Unpacked(io.RawIOBase):
    """The tar's bytes, in order. position: bytes handed out. last_written: the end of the last that was not zero."""

    def __init__(self, path: Path, file: io.BufferedReader, limits: StreamLimits, listen: Listen) -> None:
        self._path, self._file, self._limits, self._listen = path, file, limits, listen
        self._kind = compression_of(path)
        self._unpacker = self._new_unpacker()
        self._waiting = b""
        self._between = False
        self._allowance: int | None = None
        self.position = self.last_written = 0

    def allow(self, most_bytes: int | None) -> None:
        """At most so many bytes from here on; None for any number."""
        self._allowance = None if most_bytes is None else self.position + most_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._piece(size if 0 <= size <= CHUNK else CHUNK)
        kept = len(piece.rstrip(b"\0"))
        self.last_written = self.position + kept if kept else self.last_written
        self.position += len(piece)
        if self._allowance is not None and self.position > self._allowance:
            raise damaged(self._path, f"a member whose headers take more than {MOST_HEADER >> 20} MiB")
        if self.position > self._limits.unpacked_bytes:
            raise damaged(self._path, f"more than {self._limits.unpacked_bytes} bytes when unpacked")
        packed = self._file.tell()
        if self._kind != "none" and self.position > RATIO_FROM and self.position > MOST_RATIO * packed:
            raise damaged(self._path, f"{packed} bytes that unpack to more than {self.position}")
        return piece

    def _new_unpacker(self) -> Any:
        if self._kind == "gzip":
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY) if self._kind == "xz" else None

    def _piece(self, size: int) -> bytes:
        if self._kind == "none":
            piece = self._file.read(size)
            self._listen(self._file.tell())
            return piece
        try:
            return self._unpack(size)
        except (zlib.error, lzma.LZMAError, MemoryError) as error:
            raise damaged(self._path, f"a damaged {self._kind} stream ({error})") from error

    def _unpack(self, size: int) -> bytes:
        while True:
            needs = self._between or getattr(self._unpacker, "needs_input", True)
            if needs and not self._waiting:
                self._waiting = self._file.read(CHUNK)
                self._listen(self._file.tell())
                if not self._waiting:
                    if self._between:
                        return b""
                    raise damaged(self._path, f"a {self._kind} stream that is cut off")
            if self._between:
                # Streams may follow one another, and zeros the last.
                self._waiting = self._waiting.lstrip(b"\0")
                if not self._waiting:
                    continue
                self._unpacker, self._between = self._new_unpacker(), False
            piece: bytes = self._unpacker.decompress(self._waiting, size)
            if self._unpacker.eof:
                self._waiting, self._between = self._unpacker.unused_data, True
            else:
                self._waiting = getattr(self._unpacker, "unconsumed_tail", b"")
            if piece:
                return piece
