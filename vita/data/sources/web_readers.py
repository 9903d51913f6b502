"""Readers of web pages: HTML files, and the pages of web archives (WARC, WET, ARC).

The extra `web` extracts the text. A page above the limits of size or time, and content that is no page (pictures,
redirects, scripts), is skipped with its reason; it is never an error.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

from vita.data.extraction.extractor import Failure, extractor_for
from vita.data.sources import streams
from vita.data.sources.content_types import detect_format
from vita.data.sources.encodings import detect_encoding
from vita.data.sources.files import DAMAGED_END, SourceFile
from vita.data.sources.page_rights import page_rights
from vita.data.sources.readers import READERS, ReadOptions, Row, RowProblem
from vita.data.sources.web_archives import (
    ArchiveRecord,
    BadResponse,
    BrokenRecord,
    arc_records,
    begins_with_record,
    charset_of,
    parse_http,
    warc_records,
)
from vita.spine.file_listing import printable

_HTML_TYPES = ("text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml")
_TEXT_TYPES = ("text/plain", "text/markdown", "text/x-markdown")
_PAGE_RECORDS = ("response", "resource", "conversion")
"""Types of records with content. Requests, metadata, revisits and the description of the archive are not documents."""
_MAX_DOCUMENT_FACTOR = 10


@READERS.add("html")
def read_html(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a web page as one document."""
    yield read_document(file, "html", wishes)


def read_document(file: SourceFile, format: str, wishes: ReadOptions) -> Row:
    """Return the row of a file that is one document of `format`, which an extractor reads."""
    factor = 1 if format == "html" else _MAX_DOCUMENT_FACTOR
    limit = wishes.extraction.megabytes * 2**20 * factor
    if file.size > limit and not file.opener:
        return _failed(Row(printable(file.path), file.name, 0, None), _too_large(file.size, limit), "html")
    hint = "raise `extraction: megabytes` of the source"
    data = streams.read_bytes(file, limit=limit, hint=hint)
    row, rights = Row(printable(file.path), file.name, 0, None), page_rights(data) if format == "html" else {}
    return extract_row(row, format, data, wishes, charset=wishes.encoding, **rights)


def _too_large(size: int, limit: int) -> Failure:
    return Failure(
        "too_large", f"{size / 2**20:,.1f} MB, above the limit of {limit >> 20} MB (`extraction: megabytes`)"
    )


def extract_row(
    row: Row, format: str, data: bytes, wishes: ReadOptions, *, charset: str | None = None, **values: Any
) -> Row:
    """Return `row` with the text that is extracted from `data`, or with the reason why there is none."""
    extractor = extractor_for(wishes.extraction)
    result = extractor.extract(format, data, charset=charset, where=row.where)
    if isinstance(result, Failure):
        return _failed(row, result, format)
    fields = {wishes.text_field or "text": result.text, "title": result.title, **values}
    if result.missing_parts:
        fields["missing_parts"] = list(result.missing_parts)
    if result.unread_parts:
        fields["unread_parts"] = list(result.unread_parts)
    encoding = result.encoding if result.encoding not in (None, "utf-8", "utf8") else None
    return row._replace(values={name: value for name, value in fields.items() if value is not None}, encoding=encoding)


def _failed(row: Row, failure: Failure, format: str) -> Row:
    """Return the row of a failure; a damaged document that is no web page is an error unless bad rows are dropped."""
    problem = RowProblem(failure.reason, "a document whose text can be extracted", failure.detail)
    return row._replace(problem=problem, is_skipped=format == "html" or failure.reason != "not_extractable")


# -- web archives


@READERS.add("warc")
def read_warc(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the pages of a WARC or WET file."""
    return _read_archive(file, wishes, warc_records)


@READERS.add("arc")
def read_arc(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the pages of an ARC file."""
    return _read_archive(file, wishes, arc_records)


def _read_archive(file: SourceFile, wishes: ReadOptions, parse: Any) -> Iterator[Row]:
    first, start = (file.span.first_row, file.span.start) if file.span else (1, 0)
    stream = cast(BinaryIO, streams.open_sequential(file, is_member=begins_with_record))
    limit = wishes.extraction.megabytes * 2**20
    is_part = file.span is not None and file.span.stop < DAMAGED_END
    records = parse(stream, path=file.path, limit=limit, start=start, is_part=is_part)
    for number, record in enumerate(records, first):
        row = Row(printable(file.path), file.name, number, None)
        if isinstance(record, BrokenRecord):
            got = f"a part at byte {record.offset:,} that {record.problem}"
            yield row._replace(problem=RowProblem("broken_record", "a valid record", got))
        elif record.type in _PAGE_RECORDS and not (record.url or "").startswith("metadata:"):
            yield _page_row(row, record, wishes, limit)


def _page_row(row: Row, record: ArchiveRecord, wishes: ReadOptions, limit: int) -> Row:
    if record.length > limit:
        return _skipped(row, record, "too_large", _too_large(record.length, limit).detail)
    type = record.headers.get("content-type", "").lower()
    body, charset = record.content, charset_of(type)
    headers: Mapping[str, str] = {}
    if type.startswith("application/http"):
        try:
            response = parse_http(record.content, limit=limit)
        except BadResponse as error:
            return _skipped(row, record, "bad_response", str(error))
        if not 200 <= response.status < 300:
            return _skipped(row, record, "http_status", f"the HTTP status {response.status}")
        body, charset, type, headers = response.body, response.charset, response.content_type, response.headers
    type = type.partition(";")[0].strip()
    values = {
        "id": record.headers.get("warc-record-id", "").strip("<>") or None,
        "url": record.url,
        "date": record.headers.get("warc-date"),
    }
    if type in _HTML_TYPES or (not type and detect_format(body, suffix="") == "html"):
        return extract_row(row, "html", body, wishes, charset=charset, **values, **page_rights(body, headers))
    values |= page_rights(b"", headers)
    if type in _TEXT_TYPES:
        return _plain_row(row, body, charset, wishes, values)
    if type == "application/pdf" and importlib.util.find_spec("pypdf"):
        return extract_row(row, "pdf", body, wishes, **values)._replace(is_skipped=True)
    return _skipped(row, record, "content_type", f"the content type {type or '(none)'}")


def _plain_row(row: Row, body: bytes, charset: str | None, wishes: ReadOptions, values: dict[str, Any]) -> Row:
    encoding = charset or detect_encoding(body)
    try:
        text = body.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        encoding = detect_encoding(body)
        text = body.decode(encoding, "replace")
    fields = {wishes.text_field or "text": text.removeprefix("\ufeff"), **values}
    converted = encoding if encoding.lower() not in ("utf-8", "utf8", "us-ascii", "ascii") else None
    return row._replace(values={name: value for name, value in fields.items() if value is not None}, encoding=converted)


def _skipped(row: Row, record: ArchiveRecord, reason: str, detail: str) -> Row:
    got = f"{detail} at {record.url}" if record.url else detail
    return row._replace(problem=RowProblem(reason, "a page with text", got), is_skipped=True)
