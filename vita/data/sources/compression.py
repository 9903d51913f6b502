"""Decompression of gzip, zstd, bzip2 and xz in bounded memory, detected by content; the file's name is not used.

The output of one step is limited, so that a file that expands a thousandfold does not fill the memory.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
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


def decompress(file: SourceFile, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a file without its compression; pieces of an uncompressed file pass through."""
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
    yield from _decompress_frames(file, _steps(chain([head], remaining), _STEP_BYTES[kind]), _DECOMPRESSORS[kind])


def _steps(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), size):
            yield piece[start : start + size]


def _decompress_frames(file: SourceFile, steps: Iterable[bytes], start: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Decompress concatenated frames, each of which must be complete."""
    frame: _Decompressor | None = None
    num_bytes, frames = 0, 0
    for step in steps:
        while step:
            if frame is None:
                frame, frames = start(), frames + 1
            try:
                out = frame.decompress(step)
            except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError) as error:
                problem = f"is damaged after {num_bytes:,} bytes of text ({error})"
                raise DamagedFile(file.path, problem, hint="copy or download it again") from None
            num_bytes += len(out)
            if out:
                yield out
            step = b""
            if frame.eof:
                step, frame = frame.unused_data.lstrip(b"\0"), None  # gzip allows zeros as padding after its frames
    if frame is not None or not frames:
        raise DamagedFile(file.path, f"is cut off after {num_bytes:,} bytes of text", hint="copy or download it again")
