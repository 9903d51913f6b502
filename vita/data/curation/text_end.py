"""The end of a single text, held out for evaluation: a corpus of one text has no documents to sample.

The last part of the text is divided into its beginning and up to `MAX_PIECES` pieces, which are held out: an interval
needs several documents.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import orjson

from vita.data.curation.corpus import read_lines
from vita.data.curation.filter_pass import FilterJob
from vita.data.curation.part_files import PartWriter
from vita.data.records import Document

END = "#end"
"""Added to the id of the text, with a number, for the pieces of its held-out end."""
MAX_PIECES = 20
"""Largest number of pieces; the smallest is 2, if the end has two words."""
MIN_PIECE_CHARACTERS = 200
"""Length of a piece if there are more than two."""
_BOUNDARIES = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?])\s"), re.compile(r"\s"))


def divide_text(text: str, length: int) -> tuple[str, str]:
    """Return (beginning, end) of a text, whose end has about `length` characters.

    The cut is at the paragraph, line, sentence or word that begins within half a length before or after; a text
    without any of them, or of less than two words, has no end.
    """
    middle = len(text) - length
    window = (max(0, middle - length // 2), min(len(text), middle + length // 2 + 1))
    for boundary in _BOUNDARIES:
        cuts = [match.end() for match in boundary.finditer(text, *window)]
        cuts = [cut for cut in cuts if text[:cut].strip() and text[cut:].strip()]
        if cuts:
            cut = min(cuts, key=lambda cut: abs(cut - middle))
            return text[:cut], text[cut:]
    return text, ""


def cut_pieces(text: str) -> list[str]:
    """Return the pieces of the end of a text, of about equal length."""
    pieces: list[str] = []
    for remaining in range(min(MAX_PIECES, max(2, len(text) // MIN_PIECE_CHARACTERS)), 1, -1):
        piece, text = divide_text(text, len(text) - len(text) // remaining)
        if not text:
            return [*pieces, piece]
        pieces.append(piece)
    return [*pieces, text]


def hold_out_end(parts: list[Path], job: FilterJob, *, total_bytes: int, share: float) -> tuple[list[Path], int]:
    """Return (parts, number of held-out pieces): the last document is divided, its end is `share` of the whole text.

    A last document that is too short stays as it is, with 0 pieces. `job` has the options with which the parts were
    written; new parts are written to a folder below its folder.
    """
    lines = list(read_lines(parts[-1]))
    document = Document(**orjson.loads(lines[-1]))
    size = len(document.text.encode())
    length = round(len(document.text) * min(0.5, share * total_bytes / size))
    begin, end = divide_text(document.text, length) if length else (document.text, "")
    if not end:
        return parts, 0
    pieces = cut_pieces(end)
    folder = job.folder / "end"
    folder.mkdir(exist_ok=True)
    steps = job.steps
    with PartWriter(
        folder, job.number, part_bytes=steps.part_bytes, sketches=steps.sketches, repeats=steps.repeats
    ) as writer:
        for line in lines[:-1]:
            writer.add_document(Document(**orjson.loads(line)))
        writer.add_document(replace(document, text=begin))
        for number, piece in enumerate(pieces, 1):
            writer.add_document(replace(document, id=f"{document.id}{END}{number}", text=piece))
    return [*parts[:-1], *(folder / name for name in writer.names)], len(pieces)
