"""Reading of the content of files in bounded memory: bytes without compression, lines, and text in UTF-8.

Compression and encoding are detected by content. Content that is not text where text was expected is refused.
"""

from __future__ import annotations

import atexit
import io
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, cast

from vita.data.content import normalize_line_ends
from vita.data.sources.compression import DamagedMember, compression_of, decompress, decompress_members
from vita.data.sources.content_types import binary_type
from vita.data.sources.encodings import UTF8, detect_encoding, is_wide_text, to_utf8
from vita.data.sources.files import DamagedFile, FileSpan, SourceFile, open_binary, read_and_verify, read_small, verify

MAX_BYTES = 256 * 2**20
"""Largest size in bytes of a line, and of a file that is read at once; limits the memory."""
LONG_LINE = b"(a line that is too long)"
"""Takes the place of a line above `MAX_BYTES`; compared by identity."""
HEAD_BYTES = 2**16
"""Bytes from which the format is detected."""
_CHUNK_BYTES = 2**20
_UTF8_MARK = b"\xef\xbb\xbf"
_COMPRESSED_CHUNK_BYTES = 2**15
"""Data before a damaged byte in the same chunk is lost, so compressed chunks are small."""


def chunks(file: SourceFile) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file, or of its span, in chunks."""
    return cast(Iterator[bytes], _pieces(file, None))


IsMember = Callable[[bytes], bool]
"""Tells from its first decompressed bytes whether a member of a compressed file begins with a record."""


def _pieces(file: SourceFile, is_member: IsMember | None) -> Iterator[bytes | DamagedMember]:
    """Yield the decompressed bytes of a file or span; with `is_member`, also the damaged members between them."""
    if file.span:
        return read_span(file, file.span, is_member)
    if file.content is not None:
        return iter((file.content,) if file.content else ())
    size = _COMPRESSED_CHUNK_BYTES if file.is_named_compressed else _CHUNK_BYTES
    pieces = read_and_verify(file, size)
    if file.is_decompressed:
        return pieces
    return decompress_members(file, pieces, is_member) if is_member else decompress(file, pieces)


def read_span(file: SourceFile, span: FileSpan, is_member: IsMember | None = None) -> Iterator[bytes | DamagedMember]:
    """Yield the decompressed bytes from `span.start` to `span.stop`, with the damaged members between them.

    The spans of a compressed file are read one after another in each process, so the stream stays open between them
    and every process decompresses the file once.
    """
    cursor = _cursors.pop(file.path, None)
    if cursor and cursor.position > span.start:
        cursor.close()
        cursor = None
    if cursor is None:
        close_spans()
        cursor = _Cursor(file._replace(span=None), is_member)
    is_complete = False
    try:
        cursor.skip_to(span.start)
        while cursor.position < span.stop and (piece := cursor.read(span.stop - cursor.position)):
            yield piece
        verify(file)  # the digest of a part is not known, so the state of the file is compared
        is_complete = True
    finally:
        if not is_complete:
            cursor.close()
    _cursors[file.path] = cursor


class _Cursor:
    """The decompressed content of a file, with the position of the next byte."""

    def __init__(self, file: SourceFile, is_member: IsMember | None) -> None:
        self._file, self.position = file, 0
        self._handle: Any = None
        self._rest = b""
        self._pieces: Iterator[bytes | DamagedMember] = iter(())
        handle = open_binary(file)
        head = handle.read(_COMPRESSED_CHUNK_BYTES)
        if compression_of(head) or not handle.seekable():
            handle.close()
            self._pieces = _pieces(file, is_member)
        else:
            self._handle = handle

    def skip_to(self, position: int) -> None:
        """Move forward to a position."""
        if self._handle:
            self._handle.seek(position)
            self.position = position
        while self.position < position and self.read(position - self.position):
            pass

    def close(self) -> None:
        """Close the file."""
        if self._handle:
            self._handle.close()
        self._pieces = iter(())

    def read(self, size: int) -> bytes | DamagedMember:
        """Return at most `size` bytes, or a damaged member before them; no bytes at the end of the file."""
        if self._handle:
            piece = self._handle.read(min(size, _CHUNK_BYTES))
        else:
            piece = self._rest or next(self._pieces, b"")
            if isinstance(piece, DamagedMember):
                return piece
            piece, self._rest = piece[:size], piece[size:]
        self.position += len(piece)
        return piece


_cursors: dict[str, _Cursor] = {}
"""The open stream of the file whose span this process read last."""


@atexit.register
def close_spans() -> None:
    """Close the file whose span was read last."""
    while _cursors:
        _cursors.popitem()[1].close()


def with_head(file: SourceFile) -> tuple[SourceFile, bytes]:
    """Return (the file, its first decompressed bytes); a small file is read only once and held in memory.

    A file that is damaged within these bytes is returned without an error, which its reader raises. Its reader also
    finds the damaged members of a compressed file, so such a file is not held in memory.
    """
    data = read_small(file, HEAD_BYTES)
    if data is not None and not file.is_named_compressed and compression_of(data) is None:
        return _in_memory(file, data), data
    pieces = _pieces(file, lambda data: True)
    head = b""
    try:
        while len(head) < HEAD_BYTES and (piece := next(pieces, None)) is not None:
            if isinstance(piece, DamagedMember):
                return file, head
            head += piece
    except DamagedFile:
        return file, head
    if len(head) < HEAD_BYTES:
        return _in_memory(file, head), head
    return file, head


def _in_memory(file: SourceFile, content: bytes) -> SourceFile:
    """Return a file whose decompressed content was read."""
    return SourceFile(file.path, file.name, file.size, is_decompressed=True, content=content)


def is_compressed(file: SourceFile) -> bool:
    """Return True if the content of a file is compressed."""
    with open_binary(file) as handle:
        return compression_of(handle.read(16)) is not None


def decompressed_head(file: SourceFile, data: bytes) -> bytes:
    """Return the first decompressed bytes of content that begins with `data`."""
    head = b""
    try:
        for piece in decompress(file, [data]):
            head += piece
            if len(head) >= HEAD_BYTES:
                break
    except DamagedFile:
        pass  # `data` may end inside a frame
    return head


class SourceText:
    """The text of a file in UTF-8, with the encoding of the file."""

    def __init__(self, file: SourceFile, encoding: str | None = None, *, is_json: bool = False) -> None:
        """Open a file; `encoding` is a codec, or None to detect it.

        In JSON, zero bytes are damage of a row. Other text with zero bytes at its beginning is refused.
        """
        self.file = file
        self.first_row = file.span.first_row if file.span else 1
        pieces = chunks(file)
        head = next(pieces, b"")
        self.encoding = encoding or (UTF8 if file.span else detect_encoding(head))
        if self.encoding in (UTF8, "utf8") or not is_wide_text(head):
            _refuse_binary(file, head, is_json=is_json)
        self.start = file.span.start if file.span else len(_UTF8_MARK) if head.startswith(_UTF8_MARK) else 0
        """The position of the text in the file, if it is in UTF-8."""
        self._pieces: Iterator[bytes] = chain([head], pieces)
        self.whole = None if file.content is None or self.converted_from else head.removeprefix(_UTF8_MARK)
        """The whole text of a small file in UTF-8 that was read; None for other files."""

    @property
    def converted_from(self) -> str | None:
        """The encoding of the file, if it is not UTF-8."""
        return None if self.encoding in (UTF8, "utf8") else self.encoding

    def pieces(self) -> Iterator[bytes]:
        """Yield the text in pieces, without a byte-order mark."""
        if self.converted_from:
            yield from to_utf8(self._pieces, self.encoding, path=self.file.path)
            return
        yield next(self._pieces, b"").removeprefix(_UTF8_MARK)
        yield from self._pieces

    def lines(self, *, skip_long: bool = False) -> Iterator[bytes]:
        """Yield the lines without their ends (LF, CR LF or CR).

        A line of more than `MAX_BYTES` is a `DamagedFile`; with `skip_long` it is not kept, and `LONG_LINE` takes its
        place.
        """
        pending: list[bytes] = []
        length = 0
        for piece in _with_line_feeds(self.pieces()):
            first, *rest = piece.split(b"\n")
            length += len(first)
            if length > MAX_BYTES:
                if not skip_long:
                    raise DamagedFile(self.file.path, f"has a line of more than {MAX_BYTES >> 20} MiB")
                pending.clear()
            else:
                pending.append(first)
            if rest:
                line = b"".join(pending) if length <= MAX_BYTES else LONG_LINE
                pending, length = [rest[-1]], len(rest[-1])  # a long line is not held twice
                yield line
                line = b""
                yield from rest[:-1]
        if length:
            yield b"".join(pending) if length <= MAX_BYTES else LONG_LINE

    def text_lines(self) -> Iterator[bytes]:
        """Yield the lines of plain text, which also end at Unicode line separators (see `normalize_line_ends`)."""
        for line in self.lines():
            plain = normalize_line_ends(line)
            if plain is line:
                yield line
            else:
                yield from plain.split(b"\n")


def lines(file: SourceFile) -> Iterator[bytes]:
    """Yield the lines of a text file without their ends and without a byte-order mark."""
    return SourceText(file).lines()


def read_bytes(file: SourceFile, *, limit: int, hint: str) -> bytes:
    """Return all decompressed bytes of a file; `hint` is added to the error for a file above `limit`."""
    return _joined(file, chunks(file), limit, hint)


def read_text(stream: SourceText, *, hint: str) -> tuple[bytes, DamagedFile | None]:
    """Return (text, damage): the text of a file in UTF-8, up to the damage for a file that cannot be read to the end.

    `hint` is added to the error for a file above `MAX_BYTES`.
    """
    damages: list[DamagedFile] = []

    def pieces_before_damage() -> Iterator[bytes]:
        try:
            yield from stream.pieces()
        except DamagedFile as error:
            damages.append(error)

    return _joined(stream.file, pieces_before_damage(), MAX_BYTES, hint), damages[0] if damages else None


def _joined(file: SourceFile, pieces: Iterable[bytes], limit: int, hint: str) -> bytes:
    parts: list[bytes] = []
    length = 0
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if length > limit:
            raise DamagedFile(file.path, f"is larger than {limit >> 20} MiB, too large for one piece", hint=hint)
    return b"".join(parts)


def _with_line_feeds(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Replace CR LF and CR by LF; a CR at the end of a piece is held back, since the next piece may begin with LF."""
    pending = False
    for piece in pieces:
        if pending:
            piece = b"\r" + piece
        pending = piece.endswith(b"\r")
        piece = piece[:-1] if pending else piece
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if piece:
            yield piece
    if pending:
        yield b"\n"


_JSON_LINE = re.compile(rb"(?:\A|[\r\n])[ \t]*(?:\{[ \t]*\"[^\0\r\n]*\}[ \t]*[\r\n]|[{\[](?=[^\0]{15}))")
"""A whole object in a line, or the beginning of a line or array of JSON without zero bytes."""


def _refuse_binary(file: SourceFile, head: bytes, *, is_json: bool) -> None:
    meaning = binary_type(head)
    has_damaged_rows = is_json and (file.span or _JSON_LINE.search(head))
    if meaning is None and b"\0" in head[:HEAD_BYTES] and not has_damaged_rows:
        meaning = "a binary file (it holds zero bytes)"
    if meaning:
        got = meaning if meaning.startswith("a binary") else f"bytes that look like {meaning}"
        raise DamagedFile(file.path, expected="text", got=got, hint="remove it from the source, or set `encoding`")


class StreamReader(io.RawIOBase):
    """A binary file over chunks of bytes, for libraries that read files sequentially.

    It seems to end at a damaged member until `take_damage` is called.
    """

    def __init__(self, pieces: Iterable[bytes | DamagedMember]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        self.damage: DamagedMember | None = None
        """The damaged member at which the stream ended."""
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            if self.damage or (piece := next(self._pieces, None)) is None:
                return 0
            if isinstance(piece, DamagedMember):
                self.damage = piece
            else:
                self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.position += count
        return count

    def take_damage(self) -> DamagedMember | None:
        """Return the damaged member at which the stream ended; the stream continues at the next member."""
        damage, self.damage = self.damage, None
        return damage


def open_sequential(file: SourceFile, *, is_member: IsMember | None = None) -> io.BufferedReader:
    """Open the decompressed content of a file for sequential reads; `is_member` finds members after a damaged one."""
    return io.BufferedReader(StreamReader(_pieces(file, is_member)), 2**17)
