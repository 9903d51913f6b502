"""Small files in the formats of documents, made without the libraries that read them."""

from __future__ import annotations

import io
import tarfile
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


def tar_file(*members: tuple[str, bytes]) -> bytes:
    """Return a tar archive."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
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


_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_EDITED = (
    "<w:p><w:ins><w:r><w:t>Set new.</w:t></w:r></w:ins><w:del><w:r><w:delText>Old.</w:delText></w:r></w:del>"
    "<w:moveFrom><w:r><w:t>Moved.</w:t></w:r></w:moveFrom>"
    '<w:r><w:footnoteReference w:id="3"/></w:r><w:r><w:footnoteReference w:id="2"/></w:r>'
    '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
    "<mc:Choice><w:txbxContent><w:p><w:r><w:t>Box text.</w:t></w:r></w:p></w:txbxContent></mc:Choice>"
    "<mc:Fallback><w:txbxContent><w:p><w:r><w:t>Box text.</w:t></w:r></w:p></w:txbxContent></mc:Fallback>"
    "</mc:AlternateContent></w:p>"
)
"""A paragraph with tracked changes, references to two notes, and a text box."""


def docx_file(*paragraphs: str, notes: bool = False) -> bytes:
    """Return a Word document with paragraphs and a table of one row; with `notes`, also with parts beside the text."""

    def paragraph(text: str) -> str:
        return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"

    def row(*cells: str) -> str:
        return f"<w:tbl><w:tr>{''.join(f'<w:tc>{cell}</w:tc>' for cell in cells)}</w:tr></w:tbl>"

    right = paragraph("right") + (row(paragraph("inner"), paragraph("cell")) if notes else "")
    body = "".join(map(paragraph, paragraphs)) + (_EDITED if notes else "") + row(paragraph("left"), right)
    document = f"<?xml version='1.0'?><w:document {_WORD}><w:body>{body}</w:body></w:document>"
    members = [("[Content_Types].xml", "<Types/>"), ("word/document.xml", document)]
    if notes:
        line = f'<w:footnote w:id="0" w:type="separator">{paragraph("Line")}</w:footnote>'
        texts = {2: "Second note.", 3: "First note."}
        footnotes = line + "".join(
            f'<w:footnote w:id="{number}">{paragraph(text)}</w:footnote>' for number, text in texts.items()
        )
        endnote = f'<w:endnote w:id="1">{paragraph("An endnote.")}</w:endnote>'
        members += [
            ("word/footnotes.xml", f"<w:footnotes {_WORD}>{footnotes}</w:footnotes>"),
            ("word/endnotes.xml", f"<w:endnotes {_WORD}>{endnote}</w:endnotes>"),
            ("word/header1.xml", f"<w:hdr {_WORD}>{paragraph('Top of the page')}</w:hdr>"),
            ("word/footer1.xml", f"<w:ftr {_WORD}>{paragraph(' ')}</w:ftr>"),
            ("word/comments.xml", f"<w:comments {_WORD}><w:comment>{paragraph('A comment')}</w:comment></w:comments>"),
            ("word/embeddings/table.xlsx", "PK"),
        ]
    return zip_file([(name, content.encode()) for name, content in members])


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
