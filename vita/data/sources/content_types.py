"""Detection of the format of a file from its first bytes; the suffix only decides between forms of plain text.

    detect_format(b"%PDF-1.7 ...", suffix="txt")      # "pdf"
    detect_format(b'{"text": "a"}\\n', suffix="")      # "jsonl"

Formats are names of `readers.READERS`. Compression is detected by `compression.py` before the format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vita.data.sources.encodings import is_wide_text, wide_text
from vita.data.sources.fields import TEXT_FIELDS
from vita.data.sources.json_detection import named_rows_format, rows_format

SUFFIX_FORMATS = {
    "jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "parquet": "parquet",
    "arrow": "arrow", "feather": "arrow", "ipc": "arrow", "csv": "csv", "tsv": "tsv",
    "txt": "text", "text": "text", "md": "text", "markdown": "text", "rst": "text",
    "html": "html", "htm": "html", "xhtml": "html", "warc": "warc", "wet": "warc", "arc": "arc",
    "pdf": "pdf", "epub": "zip", "docx": "zip", "zip": "zip", "tar": "tar", "tgz": "tar", "mbox": "mbox",
    "eml": "eml",
}  # fmt: skip
"""Suffix -> format. A file with another suffix is read if its content is of a known format."""
_ROWS = ("jsonl", "json", "csv", "tsv")
"""Formats by name that a web page does not override: a page saved as `.jsonl` is an error page."""
_SIGNATURES = (
    (b"%PDF-", "pdf"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"WARC/", "warc"),
    (b"filedesc://", "arc"),
)
_KNOWN_SIGNATURES = tuple(signature for signature, _ in _SIGNATURES)
_BINARY = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF87a": "a GIF picture",
    b"GIF89a": "a GIF picture",
    b"\x7fELF": "a program",
    b"\xd0\xcf\x11\xe0": "an old Office document; convert it to .docx",
    b"Rar!\x1a\x07": "a RAR archive; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it first",
}
_BINARY_SIGNATURES = tuple(_BINARY)
_HTML = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)[\s>]", re.I | re.S)
_MAIL_HEADER = re.compile(rb"From \S+.*\r?\n(?:[!-9;-~]+:.*\r?\n)", re.M)
_TAR_MAGIC = slice(257, 262)


def detect_format(head: bytes, *, suffix: str, text_fields: Sequence[str] = TEXT_FIELDS) -> str | None:
    """Return the format of content that begins with `head`; None for content without a reader.

    `text_fields` are the names of the field with the text of a row.
    """
    if head.startswith(_KNOWN_SIGNATURES):
        return next(format for signature, format in _SIGNATURES if head.startswith(signature))
    if head[_TAR_MAGIC] == b"ustar":
        return "tar"
    named = SUFFIX_FORMATS.get(suffix)
    if binary_type(head) or (b"\0" in head and not is_wide_text(head)):
        return named
    text = head.removeprefix(b"\xef\xbb\xbf")
    rows = wide_text(head) if is_wide_text(head) else text
    if named:
        named = named_rows_format(rows, named, text_fields=text_fields)
    if named in _ROWS:
        return named
    if _HTML.match(text[:4096]):
        return "html"
    if named:
        return named
    if _MAIL_HEADER.match(text):
        return "mbox"
    return rows_format(rows) or (None if suffix else "text")


def binary_type(head: bytes) -> str | None:
    """Return a description of binary content that cannot be read, if its signature is known."""
    if not head.startswith(_BINARY_SIGNATURES):
        return None
    return next(meaning for signature, meaning in _BINARY.items() if head.startswith(signature))
