"""Text of one document in the formats that need an extractor: bytes in, text with title and encoding out.

These functions run in the process of `worker.py`. They import their libraries where they are used.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree

from vita.data.extraction.word import word_text
from vita.data.extraction.zip_parts import Unextractable, open_zip, parse_xml, read_part


@dataclass(frozen=True)
class Options:
    """The options of one extraction."""

    tool: str = "trafilatura"
    charset: str | None = None
    """The encoding that the HTTP header or the settings state."""
    is_article: bool = True
    """True to extract the main content of a page, False for all of its text."""


@dataclass(frozen=True)
class Extracted:
    """The text of a document, with its title and its encoding where they are known."""

    text: str
    title: str | None = None
    encoding: str | None = None
    missing_parts: tuple[str, ...] = ()
    """The parts that the document names and does not contain, or that cannot be read."""
    unread_parts: tuple[str, ...] = ()
    """Descriptions of the parts with text that are left out, such as comments."""


# -- web pages

_MIN_CHARACTERS = 500
"""Length of a text below which the fast extraction is repeated with all fallbacks."""
_SHORT_LINE_CHARACTERS, _MAX_LENGTH_RATIO = 80, 1.5
"""A text whose lines are shorter on average, and which is longer than this multiple of resiliparse's, may contain lists
of links and other boilerplate."""


def extract_html(data: bytes, options: Options) -> Extracted:
    """Extract the main content of a web page, or all of its text.

    trafilatura runs without its comparison to other extractors, which lowers the precision on articles. It runs with
    the comparison where the fast extraction is short, and then the longer of both texts is taken; and where the text
    consists of short lines and is much longer than resiliparse's main content, and then the shorter. See
    `bench/extraction.py` for the measurement.
    """
    from resiliparse.extract.html2text import extract_plain_text

    page, encoding = decode_page(data, options.charset)
    if not options.is_article:
        return Extracted(extract_plain_text(page, alt_texts=False), None, encoding)
    if options.tool == "resiliparse":
        return Extracted(extract_plain_text(page, main_content=True, alt_texts=False), _title(page), encoding)
    import trafilatura

    text = trafilatura.extract(page, include_comments=False, fast=True) or ""
    if len(text) < _MIN_CHARACTERS:
        text = max(text, trafilatura.extract(page, include_comments=False) or "", key=len)
    elif _has_short_lines(text) and len(text) > _MAX_LENGTH_RATIO * len(
        extract_plain_text(page, main_content=True, alt_texts=False)
    ):
        text = min(text, trafilatura.extract(page, include_comments=False) or text, key=len)
    return Extracted(text, _title(page), encoding)


def _has_short_lines(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return len(text) < _SHORT_LINE_CHARACTERS * len(lines)


def decode_page(data: bytes, charset: str | None) -> tuple[str, str]:
    """Return (text, encoding) of a page: by its mark, UTF-8 if it is valid, the stated charset, its `meta`, its bytes.

    Valid UTF-8 beyond ASCII is UTF-8 even if the header or the page states another encoding: such text does not occur
    by chance in legacy encodings.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif not data.isascii() and _decodes(data, "utf-8"):
        encoding = "utf-8"
    else:
        encoding = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
        if encoding is None or not _decodes(data, encoding):
            encoding = detect_encoding(data, from_html_meta=True) or "utf-8"
    page = bytes_to_str(data, encoding)
    is_ascii = data.isascii() and page == data.decode("ascii")
    return page, "utf-8" if is_ascii else encoding


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def _title(page: str) -> str | None:
    start = page.find("<title", 0, 2**16)
    begin, end = page.find(">", start) + 1, page.find("</title", start)
    if start < 0 or not 0 < begin <= end < begin + 1000:
        return None
    import html

    return " ".join(html.unescape(page[begin:end]).split()) or None


# -- documents


def extract_pdf(data: bytes, options: Options) -> Extracted:
    """Extract the text of a PDF page by page; pages are separated by blank lines."""
    import pypdf
    from pypdf.errors import PyPdfError

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unextractable("is encrypted")
        pages = [page.extract_text().strip() for page in reader.pages]
        title = reader.metadata.title if reader.metadata else None
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Unextractable(f"cannot be read as PDF ({str(error) or type(error).__name__})") from None
    return Extracted("\n\n".join(page for page in pages if page), title)


def extract_docx(data: bytes, options: Options) -> Extracted:
    """Extract the paragraphs, tables and notes of a Word document."""
    text, unread_parts = word_text(data)
    return Extracted(text, unread_parts=unread_parts)


def extract_epub(data: bytes, options: Options) -> Extracted:
    """Extract the chapters of an EPUB in the order of its spine; chapters are separated by blank lines.

    A chapter that the archive lacks, or that is damaged, is left out and named in `missing_parts`. A book without any
    readable chapter raises `Unextractable`.
    """
    from resiliparse.extract.html2text import extract_plain_text

    with open_zip(data) as archive:
        container = parse_xml(archive, "META-INF/container.xml")
        package_path = next((node.get("full-path") for node in container.iter() if _local(node) == "rootfile"), None)
        if not package_path:
            raise Unextractable("is an EPUB without a package")
        package = parse_xml(archive, package_path)
        title = next((node.text for node in package.iter() if _local(node) == "title" and node.text), None)
        chapters: list[str] = []
        problems: dict[str, Unextractable] = {}
        for name in _chapter_names(package, package_path, frozenset(archive.namelist())):
            try:
                page, _ = decode_page(read_part(archive, name), "utf-8")
            except Unextractable as problem:
                problems[name] = problem
                continue
            chapters.append(extract_plain_text(page, alt_texts=False).strip())
    if problems and not any(chapters):
        raise next(iter(problems.values()))
    return Extracted("\n\n".join(chapter for chapter in chapters if chapter), title, missing_parts=tuple(problems))


def _chapter_names(package: ElementTree.Element, package_path: str, members: Collection[str]) -> Iterator[str]:
    """Yield the names of the chapters among the members of the archive, in the order of the spine.

    `href` is a URL reference, percent-encoded and perhaps with a fragment; some writers do not encode it.
    """
    items = {node.get("id"): node for node in package.iter() if _local(node) == "item"}
    folder = posixpath.dirname(package_path)
    for reference in (node.get("idref") for node in package.iter() if _local(node) == "itemref"):
        item = items.get(reference)
        if item is not None and "html" in (item.get("media-type") or ""):
            path = posixpath.normpath(posixpath.join(folder, item.get("href") or ""))
            yield path if path in members else unquote(path.partition("#")[0])


def _local(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]


EXTRACTORS: Mapping[str, Callable[[bytes, Options], Extracted]] = {
    "html": extract_html,
    "pdf": extract_pdf,
    "docx": extract_docx,
    "epub": extract_epub,
}
"""Format -> its extractor."""
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "html": ("resiliparse.extract.html2text", "resiliparse.parse.encoding"),
    "epub": ("resiliparse.extract.html2text", "resiliparse.parse.encoding"),
    "pdf": ("pypdf",),
}
"""Format -> the modules that its extractor imports; they are imported before the time of a document is measured."""
EXTRAS: Mapping[str, tuple[str, str]] = {
    "html": ("trafilatura", "web"),
    "epub": ("resiliparse", "web"),
    "pdf": ("pypdf", "documents"),
}
"""Format -> (the library that it needs, the extra that installs it)."""
