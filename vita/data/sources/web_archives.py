"""Parsing of web archives: WARC (ISO 28500, also WET) and ARC records, and the HTTP responses inside them.

    for record in warc_records(stream, path="crawl.warc.gz", limit=2**24): ...

Own code instead of `fastwarc` or `warcio`: a damaged record is reported with its position and the parser continues at
the next record, ARC is read as well, and offsets of records in the decompressed stream let several processes share one
archive. Tests compare the records with those of `warcio`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from vita.data.sources.files import DamagedFile

_MAX_LINE = 2**16
_MAX_HEADERS = 200
_CHUNK = 2**20


@dataclass(frozen=True)
class ArchiveRecord:
    """A record: its type (`response`, `conversion`, ...), its headers with lower-case names, and its content."""

    offset: int
    """Position in the decompressed archive, in bytes."""
    type: str
    headers: Mapping[str, str]
    content: bytes
    length: int
    """Length of the content in bytes; the content is empty if it is above the limit."""

    @property
    def url(self) -> str | None:
        """The address of the page."""
        url = self.headers.get("warc-target-uri")
        return url.strip("<>") if url else None


@dataclass(frozen=True)
class BrokenRecord:
    """A part of an archive that is no valid record, with its position and the problem."""

    offset: int
    problem: str


class _Reader:
    """A reader of a sequential stream that counts positions and can push back one line."""

    def __init__(self, stream: BinaryIO, start: int) -> None:
        self._stream, self.position = stream, start
        self._line: bytes | None = None

    def line(self) -> bytes:
        if self._line is not None:
            line, self._line = self._line, None
        else:
            line = self._stream.readline(_MAX_LINE)
        self.position += len(line)
        return line

    def push_back(self, line: bytes) -> None:
        self._line = line
        self.position -= len(line)

    def read(self, length: int, limit: int) -> tuple[bytes, int]:
        """Return (content, number of bytes that exist) of a block; the content above `limit` is skipped."""
        if length <= limit:
            data = self._stream.read(length)
            self.position += len(data)
            return data, len(data)
        remaining = length
        while remaining and (part := self._stream.read(min(remaining, _CHUNK))):
            remaining -= len(part)
        self.position += length - remaining
        return b"", length - remaining


def warc_records(stream: BinaryIO, *, path: str, limit: int, start: int = 0) -> Iterator[ArchiveRecord | BrokenRecord]:
    """Yield the records of a decompressed WARC file; the stream begins at position `start`.

    A record with a wrong length, and bytes between records, are a `BrokenRecord`. A record that ends with the file is a
    `DamagedFile`. Content above `limit` bytes is not kept.
    """
    reader = _Reader(stream, start)
    while line := reader.line():
        if not line.strip():
            continue
        offset = reader.position - len(line)
        if not line.startswith(b"WARC/"):
            yield _skip_to_record(reader, offset, "is no WARC record")
            continue
        headers = _headers(reader, path, offset)
        try:
            length = int(headers.get("content-length", ""))
        except ValueError:
            length = -1
        if length < 0:
            yield _skip_to_record(reader, offset, f"has the length {headers.get('content-length', '(none)')}")
            continue
        content, size = reader.read(length, limit)
        if size < length:
            raise DamagedFile(
                path, f"is cut off inside the record at byte {offset:,}", hint="copy or download it again"
            )
        if (end := reader.line()).strip():
            reader.push_back(end)
            yield _skip_to_record(reader, offset, "has a wrong length: no line end follows its content")
            continue
        yield ArchiveRecord(offset, headers.get("warc-type", "").lower(), headers, content, length)


def _skip_to_record(reader: _Reader, offset: int, problem: str) -> BrokenRecord:
    while line := reader.line():
        if line.startswith((b"WARC/1.", b"WARC/0.")):
            reader.push_back(line)
            break
    skipped = reader.position - offset
    return BrokenRecord(offset, f"{problem}; {skipped:,} bytes up to the next record are skipped")


def _headers(reader: _Reader, path: str, offset: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    name = ""
    for _ in range(_MAX_HEADERS):
        line = reader.line()
        if not line:
            raise DamagedFile(path, f"is cut off in the headers of the record at byte {offset:,}")
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            break
        if text[0] in " \t" and name:  # a header over several lines
            headers[name] += " " + text.strip()
            continue
        name, _, value = text.partition(":")
        name = name.strip().lower()
        headers[name] = value.strip()
    return headers


def arc_records(stream: BinaryIO, *, path: str, limit: int, start: int = 0) -> Iterator[ArchiveRecord | BrokenRecord]:
    """Yield the records of a decompressed ARC file (version 1), without its version block."""
    reader = _Reader(stream, start)
    while line := reader.line():
        if not line.strip():
            continue
        offset = reader.position - len(line)
        fields = line.decode("utf-8", "replace").split()
        if len(fields) < 5 or not fields[-1].isdigit():
            raise DamagedFile(path, f"has no ARC record at byte {offset:,}")
        length = int(fields[-1])
        content, size = reader.read(length, limit)
        if size < length:
            raise DamagedFile(
                path, f"is cut off inside the record at byte {offset:,}", hint="copy or download it again"
            )
        if fields[0].startswith("filedesc:"):
            continue
        headers = {"warc-target-uri": fields[0], "warc-date": fields[2], "content-type": "application/http"}
        yield ArchiveRecord(offset, "response", headers, content, length)


# -- HTTP


@dataclass(frozen=True)
class HttpResponse:
    """A response: its status, its headers with lower-case names, and its decoded body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def content_type(self) -> str:
        """The media type without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str | None:
        """The encoding that the content type states."""
        return charset_of(self.headers.get("content-type", ""))


def charset_of(content_type: str) -> str | None:
    """Return the `charset` parameter of a content type."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None


class BadResponse(Exception):
    """An error for content that is no HTTP response, or whose body cannot be decoded."""


def parse_http(data: bytes, *, limit: int) -> HttpResponse:
    """Parse an HTTP response and decode its transfer and content encodings; the body has at most `limit` bytes."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator or b"\n\n" in head:
        head, separator, body = data.partition(b"\n\n")
    status_line, *header_lines = head.decode("latin-1").splitlines() or [""]
    parts = status_line.split(None, 2)
    if not separator or len(parts) < 2 or not parts[0].startswith("HTTP/") or not parts[1].isdigit():
        raise BadResponse("no HTTP response")
    headers: dict[str, str] = {}
    for line in header_lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _join_chunks(body)
    for coding in reversed(headers.get("content-encoding", "").lower().split(",")):
        body = _decode(body, coding.strip(), limit)
    return HttpResponse(int(parts[1]), headers, body)


def _join_chunks(body: bytes) -> bytes:
    """Return the body of a chunked response; a body that is not chunked in spite of its header is returned as it is."""
    parts: list[bytes] = []
    position = 0
    while True:
        end = body.find(b"\r\n", position)
        try:
            size = int(body[position:end].split(b";")[0], 16) if end > 0 else -1
        except ValueError:
            size = -1
        if size < 0:
            return b"".join(parts) if parts else body
        if size == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        position = end + 2 + size + 2


def _decode(body: bytes, coding: str, limit: int) -> bytes:
    """Decode a content encoding; archives often store the decoded body with the original header."""
    if coding in ("", "identity") or not body:
        return body
    try:
        if coding in ("gzip", "x-gzip"):
            return zlib.decompressobj(31).decompress(body, limit) if body.startswith(b"\x1f\x8b") else body
        if coding == "deflate":
            window = 15 if body[0] & 15 == 8 else -15
            return zlib.decompressobj(window).decompress(body, limit)
    except zlib.error as error:
        raise BadResponse(f"its content encoding {coding} is damaged ({error})") from None
    if coding == "br":
        return _decode_brotli(body, limit)
    raise BadResponse(f"its content encoding {coding} is not supported")


def _decode_brotli(body: bytes, limit: int) -> bytes:
    try:
        import brotli
    except ImportError:
        raise BadResponse("its content encoding br needs the package `brotli` (extra `web`)") from None
    decoder, parts, length = brotli.Decompressor(), list[bytes](), 0
    try:
        for start in range(0, len(body), 2**12):
            parts.append(decoder.process(body[start : start + 2**12]))
            length += len(parts[-1])
            if length > limit:
                raise BadResponse(f"its body is above {limit >> 20} MB")
    except brotli.error:
        if not parts:
            return body  # decoded already
        raise BadResponse("its content encoding br is damaged") from None
    return b"".join(parts)
