"""Division of a large JSON array into spans of whole elements, found by a scan of its bytes.

    starts = list(element_starts(file, span_bytes=8 * 2**20))   # [(0, 1), (8388771, 5213), ...], the last is the end
    data = array_of_span(data, file.span)                       # the bytes of a span as an array of their own

A comma separates elements if it is in no string and only the array is open. Strings end at quotes that no backslash
escapes. In UTF-8, no byte of a longer character equals one of these characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np

from vita.data.sources.files import DAMAGED_END, FileSpan, SourceFile
from vita.data.sources.streams import chunks

_QUOTE, _COMMA = ord('"'), ord(",")
_IS_STRUCTURAL = np.zeros(256, bool)
_IS_STRUCTURAL[list(b'",[]{}')] = True
_DEPTH = np.zeros(256, np.int64)
_DEPTH[list(b"[{")], _DEPTH[list(b"]}")] = 1, -1
_WHITE_SPACE = b" \t\r\n"
_SCAN_BYTES = 2**20


def element_starts(file: SourceFile, *, span_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (position, number) of an element about every `span_bytes`, from (0, 1) to the end of the file.

    A file that does not begin with an array has no starts.
    """
    scanner = _ArrayScanner()
    start, first, position, number = 0, True, 0, 1
    for piece in chunks(file):
        if first:
            if not piece.strip(_WHITE_SPACE).startswith(b"["):
                return
            first = False
            yield 0, 1
        commas = scanner.commas(piece)
        while len(commas) and position + int(commas[-1]) + 1 - start >= span_bytes:
            index = int(np.searchsorted(commas, start + span_bytes - position - 1))
            start, number = position + int(commas[index]) + 1, number + index + 1
            yield start, number
            commas = commas[index + 1 :]
        number += len(commas)
        position += len(piece)
    if not first:
        yield position if scanner.is_closed else DAMAGED_END, number + 1


def array_of_span(data: bytes, span: FileSpan) -> bytes:
    """Return the elements of a span as a JSON array: a span ends after a comma, except the last one."""
    if span.start:
        data = b"[" + data
    if span.stop == DAMAGED_END or not data.endswith(b","):
        return data
    return data[:-1] + b"]"


def array_problem(data: bytes, error: ValueError, message: str, *, start: int, first_row: int) -> str:
    """Return the problem of text that is not JSON, with its place in the file.

    `error` is that of Python's decoder, or `message` the problem if it has no position; `start` and `first_row` are the
    position and the row at which `data` begins. Bytes are counted from 0, and rows, which are elements, from 1.
    """
    position = None
    if isinstance(error, UnicodeDecodeError):
        position, message = error.start, f"the byte 0x{data[error.start]:02x} is not UTF-8"
    elif isinstance(error, json.JSONDecodeError):
        position, message = len(error.doc[: error.pos].encode()), error.msg
    if position is None:
        return message
    place = f"byte {start + position}"
    if data.lstrip(_WHITE_SPACE).startswith(b"["):
        place += f", row {first_row + len(_ArrayScanner().commas(data[:position]))}"
    return f"{message} ({place})"


def elements_before_damage(data: bytes, is_json: Callable[[bytes], bool]) -> Iterator[bytes]:
    """Yield the elements of a damaged array before the damage; none for text that is no array."""
    begin = len(data) - len(data.lstrip(_WHITE_SPACE)) + 1
    if data[begin - 1 : begin] != b"[":
        return
    scanner = _ArrayScanner()
    for position in range(begin - 1, len(data), _SCAN_BYTES):
        for comma in scanner.commas(data[position : position + _SCAN_BYTES]).tolist():
            element = data[begin : position + comma]
            if not is_json(element):
                yield from _complete_element(element, is_json)
                return
            yield element
            begin = position + comma + 1
    for element in (data[begin:], data[begin:].rstrip(_WHITE_SPACE).removesuffix(b"]")):
        if is_json(element):
            yield element
            return
    yield from _complete_element(data[begin:], is_json)


def _complete_element(data: bytes, is_json: Callable[[bytes], bool]) -> Iterator[bytes]:
    """Yield the object, array or string with which `data` begins, if it is complete; its end is certain."""
    text = data.lstrip(_WHITE_SPACE).decode("utf-8", "surrogateescape")
    if not text.startswith(("{", "[", '"')):
        return
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return
    element = text[:end].encode("utf-8", "surrogateescape")
    if is_json(element):
        yield element


class _ArrayScanner:
    """Finds the commas between the elements of an array in consecutive pieces of a file."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._is_escaped = False

    @property
    def is_closed(self) -> bool:
        """True if the array has ended."""
        return self._depth == 0

    def commas(self, piece: bytes) -> np.ndarray:
        """Return the positions in the piece, ascending."""
        data = np.frombuffer(self._without_escapes(piece), np.uint8)
        positions = np.flatnonzero(_IS_STRUCTURAL[data])
        characters = data[positions]
        is_quote = characters == _QUOTE
        is_inside = (np.cumsum(is_quote) + self._in_string) % 2 == 1
        self._in_string ^= bool(np.count_nonzero(is_quote) % 2)
        is_outside = ~(is_inside | is_quote)
        positions, characters = positions[is_outside], characters[is_outside]
        depths = self._depth + np.cumsum(_DEPTH[characters])
        if len(depths):
            self._depth = int(depths[-1])
        return positions[(characters == _COMMA) & (depths == 1)]

    def _without_escapes(self, piece: bytes) -> bytes:
        """Return the piece with `_` for backslashes and the characters that they escape."""
        if self._is_escaped:
            piece = b"_" + piece[1:]
        self._is_escaped = False
        if b"\\" not in piece:
            return piece
        piece = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self._is_escaped = piece.endswith(b"\\")
        return piece
