"""Division of large files into spans of about 8 MB that processes read independently.

    for span_file in divide(file, source): ...        # the same file, each time with another `span`

A file is read once to find the positions at which a row begins, so that the rows and their numbers are those of the
whole file. Spans do not depend on the number of processes. A span of a compressed file has positions in the
decompressed content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from vita.data.content import normalize_line_ends
from vita.data.sources import columnar_readers, json_spans, readers, streams, table_readers
from vita.data.sources.encodings import UTF8, detect_encoding
from vita.data.sources.files import DAMAGED_END, DamagedFile, FileSpan, SourceFile
from vita.data.sources.readers import BLANK_LINE, ReadOptions, cut_parts, format_of
from vita.data.sources.web_archives import arc_records, begins_with_record, warc_records

MIN_PLAIN_BYTES = 16 * 2**20
"""Size on disk from which a file is divided."""
MIN_COMPRESSED_BYTES = 4 * 2**20

Start = tuple[int, int]
"""(first byte, row group or record batch; number of the first row) of a span. The last one is the end of the file."""


def divide(file: SourceFile, wishes: ReadOptions) -> list[SourceFile]:
    """Return the spans of a large file in order, or the file itself if it is small or its format has no spans."""
    if file.size < MIN_COMPRESSED_BYTES or file.opener or "://" in file.path:
        return [file]
    head = streams.with_head(file)[1]
    format = format_of(file, head, wishes) or "text"
    is_text = format in ("jsonl", "json", "text", "csv", "tsv")
    is_compressed = streams.is_compressed(file)
    if file.size < MIN_PLAIN_BYTES and not is_compressed:
        return [file]
    if is_text and not ((wishes.encoding or detect_encoding(head)) == UTF8 and not head.startswith(b"\xef\xbb\xbf")):
        return [file]
    starts: list[Start] = []
    try:
        starts.extend(_starts(file, format, wishes, is_compressed=is_compressed))
    except DamagedFile:
        starts.append((DAMAGED_END, 0))  # the reader of the last span reports the damage
    if len(starts) < 3:
        return [file]
    total = max(start for start, _ in starts if start < DAMAGED_END)
    shares = [round(file.size * min(start, total) / total) for start, _ in starts]
    return [
        file._replace(span=FileSpan(start, starts[number + 1][0], row, shares[number + 1] - shares[number], format))
        for number, (start, row) in enumerate(starts[:-1])
    ]


def _starts(file: SourceFile, format: str, wishes: ReadOptions, *, is_compressed: bool) -> Iterable[Start]:
    """Return the starts of the spans of a file; none for a format without spans."""
    if format in ("parquet", "arrow"):
        groups = columnar_readers.row_groups if format == "parquet" else columnar_readers.record_batches
        return [] if is_compressed else _group_starts(groups(file))
    if format in ("warc", "arc"):
        return _record_starts(file, format, limit=wishes.extraction.megabytes * 2**20)
    if format in ("csv", "tsv"):
        return table_readers.row_starts(file, format, span_bytes=readers.PART_BYTES)
    if format == "json":
        return json_spans.element_starts(file, span_bytes=readers.PART_BYTES)
    if format == "jsonl" or (format == "text" and wishes.cut_at):
        return _line_starts(file, is_rows=format == "jsonl", at_blank_lines=wishes.cut_at == "blank_lines")
    return _part_starts(file) if format == "text" else []


def _line_starts(file: SourceFile, *, is_rows: bool, at_blank_lines: bool) -> Iterator[Start]:
    """Yield the starts of spans at lines; none for a file without line feeds."""
    start, row = 0, 1
    yield start, row
    position, pending = 0, list[bytes]()
    for piece in streams.chunks(file):
        if b"\n" not in piece:
            pending.append(piece)
            if sum(map(len, pending)) > streams.MAX_BYTES:
                return
            continue
        block = b"".join([*pending, piece])
        end = block.rfind(b"\n") + 1
        pending = [block[end:]]
        offset = 0
        while position + end - start >= readers.PART_BYTES:
            cut = _cut_after(block, max(offset, start + readers.PART_BYTES - position - 1), end, at_blank_lines)
            if not cut:
                break
            row += _count_rows(block[offset:cut], is_rows)
            offset = cut
            start = position + cut
            yield start, row
        row += _count_rows(block[offset:end], is_rows)
        position += end
    position += sum(map(len, pending))
    if position > start:
        yield position, row


def _cut_after(block: bytes, begin: int, end: int, at_blank_lines: bool) -> int:
    """Return the position after the next line, or after the next blank line; 0 if there is none."""
    if not at_blank_lines:
        return block.find(b"\n", begin, end) + 1
    match = BLANK_LINE.search(block, begin, end)
    return match.end() if match else 0


def _count_rows(block: bytes, is_rows: bool) -> int:
    if is_rows:
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return block.count(b"\n")
    return normalize_line_ends(block).count(b"\n")


def _part_starts(file: SourceFile) -> Iterator[Start]:
    """Yield the starts of the parts of a text."""
    position, row = 0, 1
    yield position, row
    for part, _ in cut_parts(streams.chunks(file)):
        position += len(part)
        row += normalize_line_ends(part).count(b"\n")
        yield position, row


def _record_starts(file: SourceFile, format: str, *, limit: int) -> Iterator[Start]:
    """Yield the starts of spans at records of a web archive."""
    stream = streams.open_sequential(file, is_member=begins_with_record)
    parse = warc_records if format == "warc" else arc_records
    start, number = 0, 0
    yield 0, 1
    for number, record in enumerate(parse(cast(BinaryIO, stream), path=file.path, limit=limit), 1):
        if record.offset - start >= readers.PART_BYTES:
            start = record.offset
            yield start, number
    yield cast(streams.StreamReader, stream.raw).position, number + 1


def _group_starts(groups: Iterable[tuple[int, int]]) -> list[Start]:
    """Return the starts of spans of whole groups, whose rows and bytes are known."""
    starts: list[Start] = [(0, 1)]
    size, row, number = 0, 1, 0
    for number, (rows, group_bytes) in enumerate(groups, 1):
        size += group_bytes
        row += rows
        if size >= readers.PART_BYTES:
            starts.append((number, row))
            size = 0
    return [*starts, (number, row)] if size else starts
