"""Text of a Word document (ECMA-376): its paragraphs, tables and text boxes in order, then its footnotes and endnotes.

Headers, footers, comments and embedded files are left out and described. Deleted text is no text of the document.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from vita.data.extraction.zip_parts import Unextractable, open_zip, parse_xml

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_ALTERNATIVE = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
"""Element with the content of another element for old programs."""
_NO_TEXT = frozenset({_ALTERNATIVE, f"{_WORD}del", f"{_WORD}moveFrom"})
_CHARACTERS = {f"{_WORD}tab": "\t", f"{_WORD}br": "\n", f"{_WORD}cr": "\n", f"{_WORD}noBreakHyphen": "\u2011"}
_LEFT_OUT = {
    "word/header": ("header", "headers"),
    "word/footer": ("footer", "footers"),
    "word/comments.xml": ("part with comments", "parts with comments"),
    "word/embeddings/": ("embedded file", "embedded files"),
    "word/diagrams/data": ("diagram", "diagrams"),
    "word/charts/chart": ("chart", "charts"),
    "word/afchunk": ("inserted document", "inserted documents"),
}
"""Beginning of the names of parts that are left out -> their name in the report, for one and several."""


def word_text(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Return (text, descriptions of parts with text that are left out) of a Word document.

    Blocks are separated by blank lines, cells of a table by tabs.
    """
    with open_zip(data) as archive:
        root = parse_xml(archive, "word/document.xml")
        blocks = [*_blocks(root)]
        unread: list[str] = []
        for kind in ("footnote", "endnote"):
            try:
                blocks += _notes(archive, root, kind)
            except Unextractable as error:
                unread.append(f"the {kind}s ({error})")
        unread += _left_out(archive)
    return "\n\n".join(block for block in blocks if block.strip()), tuple(unread)


def _notes(archive: zipfile.ZipFile, root: Element, kind: str) -> list[str]:
    """Return the text of the notes in the order of their references, then of those without a reference."""
    name = f"word/{kind}s.xml"
    if name not in archive.namelist():
        return []
    # The notes with a type are the lines between text and notes.
    elements = (note for note in parse_xml(archive, name).iter(f"{_WORD}{kind}") if f"{_WORD}type" not in note.attrib)
    notes = {note.get(f"{_WORD}id"): "\n\n".join(filter(str.strip, _blocks(note))).strip() for note in elements}
    references = [reference.get(f"{_WORD}id") for reference in root.iter(f"{_WORD}{kind}Reference")]
    return [notes[number] for number in dict.fromkeys([*references, *notes]) if number in notes]


def _left_out(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield a description of the parts of each kind that are left out and contain text."""
    for start, (one, several) in _LEFT_OUT.items():
        names = [name for name in archive.namelist() if name.startswith(start) and _contains_text(archive, name)]
        if names:
            yield f"{len(names):,} {one if len(names) == 1 else several}"


def _contains_text(archive: zipfile.ZipFile, name: str) -> bool:
    if not name.startswith(("word/header", "word/footer", "word/comments")):
        return True
    try:
        return any(block.strip() for block in _blocks(parse_xml(archive, name)))
    except Unextractable:
        return True


def _blocks(element: Element) -> Iterator[str]:
    """Yield the text of each paragraph and table in an element."""
    for child in element:
        if child.tag == f"{_WORD}p":
            yield _text(child)
        elif child.tag == f"{_WORD}tbl":
            yield "\n".join(
                "\t".join(" ".join(_blocks(cell)) for cell in _parts(row, "tc")) for row in _parts(child, "tr")
            )
        elif child.tag not in _NO_TEXT:
            yield from _blocks(child)


def _parts(element: Element, name: str) -> Iterator[Element]:
    """Yield the rows of a table or the cells of a row, without those of tables inside them."""
    for child in element:
        if child.tag == f"{_WORD}{name}":
            yield child
        elif child.tag not in _NO_TEXT and child.tag != f"{_WORD}tc":
            yield from _parts(child, name)


def _text(element: Element) -> str:
    if element.tag in _NO_TEXT:
        return ""
    if element.tag == f"{_WORD}t":
        return element.text or ""
    if element.tag == f"{_WORD}txbxContent":
        return "\n" + "\n".join(_blocks(element)) + "\n"
    return _CHARACTERS.get(element.tag, "") + "".join(map(_text, element))
