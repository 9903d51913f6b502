"""Parsing of web archives: WARC (ISO 28500, also WET) and ARC records, and the HTTP responses inside them.

    for record in warc_records(stream, path="crawl.warc.gz", limit=2**24): ...

Own code instead of `fastwarc` or `warcio`: a damaged record is reported with its position and the parser continues at
the next record, ARC is read as well, and offsets of records in the decompressed stream let several processes share one
archive. Tests compare the records with those of `warcio`.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from vita.data.sources.compression import DamagedMember
from vita.data.sources.files import DamagedFile
from vita.data.sources.streams import StreamReader

_MAX_LINE = 2**16
_MAX_HEADERS = 200
_CHUNK = 2**20
_MAX_HEADER = 2**12
_WRONG_LENGTH = "has a wrong length"


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


_WARC_HEADER = re.compile(rb"^WARC/[01]\.\d+[ \t]*\r?\n[a-z][a-z0-9_-]*:", re.M | re.I)
_ARC_HEADER = re.compile(rb"^[a-z][a-z0-9+.-]{1,20}:\S* \S+ \d{8,14} [^\n]{1,200} \d+\r?\n", re.M | re.I)


class _Reader:
    """A reader of a sequential stream that counts positions and can push back bytes."""

    def __init__(self, stream: BinaryIO, start: int, header: re.Pattern[bytes], *, path: str, is_part: bool) -> None:
        """Read from `stream`, which begins at position `start`; `header` matches the first lines of a record.

        A record follows the end of a part of a file.
        """
        self._stream, self.position, self._header = stream, start, header
        self._path, self._is_part = path, is_part
        self._returned = io.BytesIO()
        raw = getattr(stream, "raw", None)
        self._members = raw if isinstance(raw, StreamReader) else None

    def line(self) -> bytes:
        """Return the next line with its end; none at the end of the stream and at a damaged member."""
        line = self._returned.readline(_MAX_LINE)
        if not line.endswith(b"\n") and len(line) < _MAX_LINE:
            line += self._stream.readline(_MAX_LINE - len(line))
        self.position += len(line)
        return line

    def record_line(self) -> bytes:
        """Return the next line that is not blank."""
        while (line := self.line()) and not line.strip():
            pass
        return line

    def push_back(self, data: bytes) -> None:
        """Take back the bytes that were read last."""
        self._returned = io.BytesIO(data + self._returned.read())
        self.position -= len(data)

    def read(self, length: int, limit: int) -> tuple[bytes, int]:
        """Return (content, number of bytes that exist) of a block; the content above `limit` is skipped.

        A block ends before the header of a record, if the stream ends in it or if it is above the limit: its length
        is wrong.
        """
        if length <= limit:
            data = self._read(length)
            if len(data) < length:
                data = data[: len(data) - self.return_record(data)]
            return data, len(data)
        remaining, tail = length, b""
        while remaining and (part := self._read(min(remaining, _CHUNK))):
            remaining -= len(part)
            if returned := self.return_record(tail + part):
                return b"", length - remaining - returned
            tail = (tail + part)[-_MAX_HEADER:]
        return b"", length - remaining

    def _read(self, length: int) -> bytes:
        data = self._returned.read(length)
        data += self._stream.read(length - len(data))
        self.position += len(data)
        return data

    def return_record(self, data: bytes) -> int:
        """Push back the bytes from the first header of a record in the last bytes `data`; return their number."""
        if match := self._header.search(data):
            self.push_back(data[match.start() :])
            return len(data) - match.start()
        return 0

    def skip_to_record(self, offset: int, problem: str) -> BrokenRecord:
        """Move to the next header of a record and return the broken record at `offset`."""
        while line := self.line():
            following = self.line() if line.startswith(b"WARC/") else b""
            if following:
                self.push_back(following)
            if self._header.match(line + following):
                self.push_back(line)
                break
        skipped = self.position - offset
        return BrokenRecord(offset, f"{problem}; {skipped:,} bytes up to the next record are skipped")

    @property
    def damage(self) -> DamagedMember | None:
        """Return the damaged member of the compressed file at which the stream ended."""
        return self._members.damage if self._members else None

    def end(self, offset: int, place: str) -> BrokenRecord:
        """Return the record at `offset` that a damaged member cuts off; raise `DamagedFile` at the end of the file."""
        damage = self._members.take_damage() if self._members else None
        if damage and damage.stop:
            return BrokenRecord(offset, f"is in {damage.place}; reading continues at byte {damage.stop:,}")
        if self._is_part and not damage:
            return self.skip_to_record(offset, _WRONG_LENGTH)
        problem = f"is cut off {place} the record at byte {offset:,}"
        if damage:
            problem = f"is damaged after {self.position:,} bytes of text, in {damage.place}"
        raise DamagedFile(self._path, problem, hint="copy or download it again")

    def content(self, record: ArchiveRecord, limit: int) -> ArchiveRecord | BrokenRecord:
        """Read the content of a record; content above `limit` bytes is not kept."""
        content, size = self.read(record.length, limit)
        line = self.line()
        self.push_back(line)
        if size < record.length:
            if not line:
                return self.end(record.offset, "inside")
            return self.skip_to_record(record.offset, _WRONG_LENGTH)
        # Another record follows a part of a file. In ARC files, it can follow without a line end.
        is_separated = not line.strip() if line or self.damage else not self._is_part
        if not is_separated and not (self._header is _ARC_HEADER and (not line or self._header.match(line))):
            self.return_record(content)
            return self.skip_to_record(record.offset, _WRONG_LENGTH)
        following = self.record_line()
        self.push_back(following)
        if not following and self.damage and self.damage.num_bytes:
            return self.end(record.offset, "at the end of")
        return replace(record, content=content)


Records = Iterator[ArchiveRecord | BrokenRecord]


def warc_records(stream: BinaryIO, *, path: str, limit: int, start: int = 0, is_part: bool = False) -> Records:
    """Yield the records of a decompressed WARC file; the stream begins at position `start`.

    A record with a wrong length, bytes between records, and a damaged member of the compressed file are a
    `BrokenRecord`. A record that ends with the file is a `DamagedFile`; with `is_part`, the stream ends before a record
    of the file. Content above `limit` bytes is not kept.
    """
    reader = _Reader(stream, start, _WARC_HEADER, path=path, is_part=is_part)
    while (line := reader.record_line()) or reader.damage:
        offset = reader.position - len(line)
        if not line:
            yield reader.end(offset, "before")
        elif not line.startswith(b"WARC/"):
            yield reader.skip_to_record(offset, "is no WARC record")
        elif (headers := _headers(reader)) is None:
            yield reader.end(offset, "in the headers of")
        elif not (length := headers.get("content-length", "(none)")).isdecimal():
            yield reader.skip_to_record(offset, f"has the length {length}")
        else:
            record = ArchiveRecord(offset, headers.get("warc-type", "").lower(), headers, b"", int(length))
            yield reader.content(record, limit)


def _headers(reader: _Reader) -> dict[str, str] | None:
    """Return the headers of a record; None if the stream ends in them."""
    headers: dict[str, str] = {}
    name = ""
    for _ in range(_MAX_HEADERS):
        line = reader.line()
        if not line:
            return None
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


def arc_records(stream: BinaryIO, *, path: str, limit: int, start: int = 0, is_part: bool = False) -> Records:
    """Yield the records of a decompressed ARC file (version 1), without its version block; see `warc_records`."""
    reader = _Reader(stream, start, _ARC_HEADER, path=path, is_part=is_part)
    while (line := reader.record_line()) or reader.damage:
        offset = reader.position - len(line)
        fields = line.decode("utf-8", "replace").split()
        if not line:
            yield reader.end(offset, "before")
        elif len(fields) < 5 or not fields[-1].isdecimal():
            yield reader.skip_to_record(offset, "is no ARC record")
        else:
            headers = {"warc-target-uri": fields[0], "warc-date": fields[2], "content-type": "application/http"}
            record = reader.content(ArchiveRecord(offset, "response", headers, b"", int(fields[-1])), limit)
            if not fields[0].startswith("filedesc:") or isinstance(record, BrokenRecord):
                yield record


def begins_with_record(data: bytes) -> bool:
    """Return True if the first bytes of a member of a compressed file begin a record of a WARC or ARC file."""
    return data.startswith(b"WARC/") or bool(_ARC_HEADER.match(data))


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
