"""Parts of documents that are zip archives: EPUB and Word. Nothing is unpacked to disk."""

from __future__ import annotations

import io
import zipfile
from xml.etree import ElementTree

MAX_PART_BYTES = 512 * 2**20
"""Largest decompressed size of a part of an EPUB or Word document."""


class Unextractable(Exception):
    """An error for a document that cannot be extracted; the message is the reason."""


def open_zip(data: bytes) -> zipfile.ZipFile:
    """Open a document; raise `Unextractable` if it is damaged."""
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError) as error:
        raise Unextractable(f"is a damaged zip file ({error})") from None


def read_part(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a part of the document in memory; nothing is unpacked to disk."""
    try:
        with archive.open(name) as part:
            data = part.read(MAX_PART_BYTES + 1)
    except (KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise Unextractable(f"has no readable part {name} ({error})") from None
    if len(data) > MAX_PART_BYTES:
        raise Unextractable(f"has a part {name} of more than {MAX_PART_BYTES >> 20} MiB")
    return data


def parse_xml(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    """Return the root of a part in XML; a part that declares entities is refused."""
    data = read_part(archive, name)
    if b"<!ENTITY" in data[:4096]:
        raise Unextractable(f"declares entities in {name}")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise Unextractable(f"has a damaged part {name} ({error})") from None
