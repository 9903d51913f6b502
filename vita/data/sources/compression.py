"""Decompression of gzip, zstd, bzip2 and xz in bounded memory, detected by content; the file's name is not used.

The output of one step is limited, so that a file that expands a thousandfold does not fill the memory.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

import zstandard

from vita.data.sources.files import DamagedFile, SourceFile


class _Decompressor(Protocol):
    """The interface that bz2, lzma, zlib and zstandard share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_MAX_WINDOW = 2**31
"""Maximum window of a zstd frame in bytes: the maximum of `zstd --long=31`."""
_STEP_BYTES = {"gzip": 2**15, "zstd": 2**12, "bzip2": 2**12, "xz": 2**12}
"""Compressed bytes of one step: at most 130 MB of output, which zstd reaches for a file of zeros."""
_MAGIC_BYTES = 10
_MEMBER_MAGIC = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0"}
_HELD_BYTES = 16 * 2**20
"""Compressed bytes of a member that are held, because damage is often noticed after the begin of the next member."""
_TRIAL_BYTES = 2**20
"""Compressed bytes after which a member must have output; a block of bzip2 has up to 900 kB."""
_ERRORS = (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError)
"""The errors of the libraries for damaged data."""

# zstandard's stream reader is not used: it ends without an error if a frame is truncated.
_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zstd": lambda: zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj(),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


def compression_of(head: bytes) -> str | None:
    """Return `gzip`, `zstd`, `bzip2` or `xz` for content that begins with `head`, and None for other content."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):  # skippable
        return "zstd"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    # A text can begin with `BZh1`; the marks of a block or of the end follow only in bzip2.
    if head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    return None


@dataclass(frozen=True)
class DamagedMember:
    """A damaged member of a compressed file, in the place of its bytes that could not be decompressed."""

    kind: str
    start: int
    """Position of the member in the compressed file, in bytes."""
    stop: int | None
    """Position of the next member that can be read; None if there is none."""
    num_bytes: int
    """Decompressed bytes of the member before the damage."""
    error: str

    @property
    def place(self) -> str:
        """Return the place in the compressed file and the problem."""
        return f"the damaged {self.kind} member at byte {self.start:,} of the file ({self.error})"


def decompress(file: SourceFile, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a file without its compression; pieces of an uncompressed file pass through."""
    return (piece for piece in decompress_members(file, pieces, None) if isinstance(piece, bytes))


def decompress_members(
    file: SourceFile, pieces: Iterable[bytes], is_member: Callable[[bytes], bool] | None
) -> Iterator[bytes | DamagedMember]:
    """Yield the bytes of a file as `decompress` does, and continue after a damaged member at the next one.

    `is_member` tells from its first decompressed bytes whether a member begins with a record of the file; None for a
    file without such members, of which damage is a `DamagedFile`. A `DamagedMember` and a line feed take the place of
    the rest of a damaged one.
    """
    remaining = iter(pieces)
    head = b""
    while len(head) < _MAGIC_BYTES and (piece := next(remaining, None)) is not None:
        head += piece
    kind = compression_of(head)
    if kind is None:
        if file.is_named_compressed and len(head) < _MAGIC_BYTES:
            raise DamagedFile(file.path, "is cut off after 0 bytes of text", hint="copy or download it again")
        if head:
            yield head
        yield from remaining
        return
    compressed, num_bytes = _Compressed(chain([head], remaining), kind, max_held=_HELD_BYTES if is_member else 0), 0
    while step := compressed.begin_member():
        start, member, length, error = compressed.position - len(step), _DECOMPRESSORS[kind](), 0, None
        if is_member and (num_zeros := compressed.num_zeros):
            stop = compressed.position if compressed.find_member(start, is_member) else None
            yield DamagedMember(kind, start - num_zeros, stop, 0, f"{num_zeros:,} bytes of it are zero")
            yield b"\n"
            num_bytes += 1
            continue
        while step and not member.eof:
            try:
                out = member.decompress(step)
            except _ERRORS as problem:
                error = problem
                break
            length += len(out)
            if out:
                yield out
            step = b"" if member.eof else compressed.next()
        num_bytes += length
        if member.eof:
            compressed.push_back(member.unused_data)
        elif is_member:
            is_followed = compressed.find_member(start + 1, is_member)
            stop = compressed.position if is_followed else None
            yield DamagedMember(kind, start, stop, length, str(error or "it is cut off"))
            yield b"\n"
            num_bytes += 1
        else:
            damage = f"damaged after {num_bytes:,} bytes of text ({error})"
            problem = f"is {damage}" if error else f"is cut off after {num_bytes:,} bytes of text"
            raise DamagedFile(file.path, problem, hint="copy or download it again")


class _Compressed:
    """The compressed bytes of a file in steps; the last ones are held and can be read again."""

    def __init__(self, pieces: Iterable[bytes], kind: str, *, max_held: int) -> None:
        self._kind, self._max_held = kind, max_held
        self._steps = _steps(pieces, _STEP_BYTES[kind])
        self._returned: deque[bytes] = deque()
        self._held: deque[bytes] = deque()
        self._num_held = 0
        self.position = 0
        """Position of the next byte in the file."""
        self.num_zeros = 0
        """Number of zero bytes before the current member."""

    def next(self) -> bytes:
        """Return the bytes of the next step; none at the end of the file."""
        step = self._returned.popleft() if self._returned else next(self._steps, b"")
        self.position += len(step)
        self._held.append(step)
        self._num_held += len(step)
        while len(self._held) > 1 and self._num_held - len(self._held[0]) >= self._max_held:
            self._num_held -= len(self._held.popleft())
        return step

    def begin_member(self) -> bytes:
        """Return the first step of a member without zeros before it, which gzip allows; none at the end of the file."""
        self._held.clear()
        self._num_held = self.num_zeros = 0
        while step := self.next():
            stripped = step.lstrip(b"\0")
            self.num_zeros += len(step) - len(stripped)
            if stripped:
                return stripped
        return step

    def push_back(self, data: bytes) -> None:
        """Take back the bytes that were read last."""
        self._returned.extendleft(reversed([*_steps([data], _STEP_BYTES[self._kind])]))
        self.position -= len(data)

    def find_member(self, start: int, is_member: Callable[[bytes], bool]) -> bool:
        """Move to the first member from position `start` of which `is_member` is true; return False if there is none.

        Bytes that are no longer held are not searched.
        """
        held, magic = b"".join(self._held), _MEMBER_MAGIC[self._kind]
        data, place, is_end = held[max(0, start - self.position + len(held)) :], 0, False
        while True:
            while not is_end and len(data) - place < _TRIAL_BYTES:
                following = b"".join(islice(iter(self.next, b""), 64))
                data, place, is_end = data[place:] + following, 0, not following
            position = data.find(magic, place)
            if position < 0 and is_end:
                return False
            place = position if position >= 0 else max(0, len(data) - len(magic) + 1)
            if position < 0 or (not is_end and len(data) - place < _TRIAL_BYTES):
                continue
            if is_member(_first_output(data[place : place + _TRIAL_BYTES], self._kind)):
                self.push_back(data[place:])
                return True
            place += 1


def _first_output(data: bytes, kind: str) -> bytes:
    """Return the first bytes that a member which begins with `data` contains; none if it is no member."""
    member, size = _DECOMPRESSORS[kind](), 2**10
    try:
        outputs = (member.decompress(data[start : start + size]) for start in range(0, len(data), size))
        return next(filter(None, outputs), b"")
    except _ERRORS:
        return b""


def _steps(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), size):
            yield piece[start : start + size]
