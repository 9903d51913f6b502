"""Small files in the formats of documents, made without the libraries that read them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from types import MappingProxyType

PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>Rivers &amp; lakes</title></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<article><h1>Rivers and lakes</h1>
<p>A river carries water from its spring to the sea, and a lake collects it for a while. Both change their shape over
centuries, as every map of an old town beside the water shows to a patient reader.</p>
<p>Where a river enters a lake it becomes slow and leaves its sand, so that a delta grows year after year into the open
water. Engineers dredge such places to keep the harbours open for ships of all sizes.</p></article>
<footer>Copyright 2020, all rights reserved. Imprint. Privacy.</footer></body></html>"""
SENTENCE = "A river carries water from its spring to the sea"


def warc_record(content: bytes, *, type: str = "response", url: str = "http://a.example/", **headers: str) -> bytes:
    """Return a WARC record."""
    named = {"WARC-Type": type, "WARC-Target-URI": url, "WARC-Date": "2024-05-06T07:08:09Z"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = ["WARC/1.0", *(f"{name}: {value}" for name, value in named.items()), f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n\r\n"


def http_response(body: bytes, *headers: str, status: str = "200 OK", type: str = "text/html") -> bytes:
    """Return an HTTP response."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {type}", *headers]).encode() + b"\r\n\r\n" + body


def page_record(body: bytes, *headers: str, status: str = "200 OK", type: str = "text/html", url: str = "") -> bytes:
    """Return a WARC record with an HTTP response."""
    content = http_response(body, *headers, status=status, type=type)
    return warc_record(content, url=url or "http://a.example/", Content_Type="application/http; msgtype=response")


def zip_file(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a zip archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return data.getvalue()


def pdf_file(*pages: str) -> bytes:
    """Return a PDF with a line of text on each page."""
    numbers = range(4, 4 + 2 * len(pages), 2)
    kids = " ".join(f"{number} 0 R" for number in numbers)
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in zip(numbers, pages, strict=True):
        content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        resources = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} /Contents {number + 1} 0 R >>")
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    return data + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}".encode()


def docx_file(*paragraphs: str) -> bytes:
    """Return a Word document with paragraphs and a table of one row."""
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    cells = "".join(f"<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>" for text in ("left", "right"))
    table = f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
    document = f"<?xml version='1.0'?><w:document {space}><w:body>{body}{table}</w:body></w:document>"
    return zip_file([("[Content_Types].xml", b"<Types/>"), ("word/document.xml", document.encode())])


def epub_file(*chapters: str, hrefs: Mapping[int, str] = MappingProxyType({})) -> bytes:
    """Return an EPUB whose spine has the chapters in order, and whose files are in reverse order.

    `hrefs` are the references to chapters whose files have other names than `c0.xhtml`, by number.
    """
    container = b"<container><rootfiles><rootfile full-path='OEBPS/book.opf'/></rootfiles></container>"
    references = [hrefs.get(number, f"c{number}.xhtml") for number in range(len(chapters))]
    items = "".join(
        f"<item id='c{number}' href='{reference}' media-type='application/xhtml+xml'/>"
        for number, reference in enumerate(references)
    )
    spine = "".join(f"<itemref idref='c{number}'/>" for number in range(len(chapters)))
    metadata = "<metadata xmlns:dc='http://purl.org/dc/elements/1.1/'><dc:title>A book</dc:title></metadata>"
    package = f"<package>{metadata}<manifest>{items}</manifest><spine>{spine}</spine></package>"
    members = [("mimetype", b"application/epub+zip"), ("META-INF/container.xml", container)]
    members += [("OEBPS/book.opf", package.encode())]
    pages = [
        (
            f"OEBPS/c {number}.xhtml" if number in hrefs else f"OEBPS/c{number}.xhtml",
            f"<html><body><p>{text}</p></body></html>".encode(),
        )
        for number, text in enumerate(chapters)
    ]
    return zip_file([*members, *reversed(pages)])
