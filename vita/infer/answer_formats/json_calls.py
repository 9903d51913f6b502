"""The reader of calls that are JSON objects with the name and the arguments of a function."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vita.data.exact_json import dump_exact, parse_exact
from vita.infer.answer_formats.call_reader import TAIL, TAIL_BEGIN, CallReader, waits_for
from vita.infer.answer_formats.deltas import Delta
from vita.infer.answer_formats.json_scanner import JsonScanner, NotJson


class JsonCallReader(CallReader):
    """A reader of JSON objects, lists of objects, or several of them one after another.

    `{"name": ..., "arguments": {...}}`, with the keys in any order, also within `{"function": {...}}`. The arguments
    can be a text with JSON, which is returned when it is complete.
    """

    def __init__(
        self,
        index: int,
        *,
        partial: bool,
        end: str = "",
        name_key: str = "name",
        arguments_key: str = "arguments",
        optional_start: str = "",
    ) -> None:
        """`end` is the text that ends the block; `optional_start` may begin it."""
        super().__init__(index, partial=partial)
        self._end, self._name_key, self._arguments_key = end, name_key, arguments_key
        self._optional_start = optional_start
        self._scanner: JsonScanner | None = None
        self._values = 0
        self._key, self._depth, self._base = "", 0, 0
        self._reads_arguments = self._has_arguments = False

    def read(self, text: str, *, last: bool) -> Iterator[Delta]:
        self.position = 0
        while self.position < len(text) and not self.end:
            before = self.position, self._scanner
            if self._scanner is None:
                yield from self._read_between(text[self.position :], last=last)
            else:
                yield from self._read_value(text, self._scanner, last=last)
            if not self._started:
                yield from self._grow()
            ends_number = self._scanner is not None and self._scanner.event
            if before == (self.position, self._scanner) and not ends_number:
                break
        yield from self._grow()

    def _read_between(self, text: str, *, last: bool) -> Iterator[Delta]:
        """Read the text before, between and after the values."""
        separators = " \r\n\t;," if self._values else " \r\n\t"
        rest = text.lstrip(separators)
        end = self._end
        if len(rest) < len(text):
            self._consume(text[: len(text) - len(rest)])
        elif end and rest.startswith(end) and self.has_calls:
            self._consume(end)
            self.end = "end"
        elif rest[0] in "{[":
            self._scanner = JsonScanner()
        elif not self._values and self._optional_start and rest.startswith(self._optional_start):
            self._consume(self._optional_start)
            self._optional_start = ""
        elif last and self.has_calls and (waits_for(rest, [end]) if end else TAIL.fullmatch(rest)):
            self._consume(rest)
            self.end = "end"
        elif last or not self._may_continue(rest):
            yield from self._fail()

    def _may_continue(self, rest: str) -> bool:
        """Return True if more text can make `rest` an end or a start of the block."""
        if waits_for(rest, [self._end]) or (not self._values and waits_for(rest, [self._optional_start])):
            return True
        return self.has_calls and not self._end and bool(TAIL_BEGIN.fullmatch(rest))

    def _read_value(self, text: str, scanner: JsonScanner, *, last: bool) -> Iterator[Delta]:
        """Read the next unit of a value; text that is no call ends the block."""
        start = self.position
        try:
            end = scanner.step(text, start)
        except NotJson:
            yield from self._read_early_end(text[start:], last=last)
            return
        reading = self._reads_arguments
        try:
            self._take(scanner, text[start:end])
        except NotJson:
            yield from self._fail()
            return
        if reading or self._reads_arguments:
            self._arguments += text[start:end]
        self._consume(text[start:end])
        if scanner.event == "close" and len(scanner.stack) == self._depth - 1 and self._depth:
            yield from self._end_object()
        if scanner.done:
            self._scanner, self._values = None, self._values + 1

    def _read_early_end(self, rest: str, *, last: bool) -> Iterator[Delta]:
        """Handle a text that continues no JSON: the end of the block completes a call that has begun."""
        if self._started and not last and waits_for(rest, [self._end]):
            return
        if self._started and self._end and rest.startswith(self._end):
            yield from self._finish_call()
            self._consume(self._end)
            self.end = "end"
            return
        yield from self._fail()

    def _take(self, scanner: JsonScanner, text: str) -> None:
        """Take a unit of a value; raises `NotJson` if the value is no call."""
        depth = len(scanner.stack)
        match scanner.event:
            case "open" if not self._depth:
                self._open_value(scanner, text)
            case "open" if depth == self._depth + 1 and self._key == self._arguments_key and not self._has_arguments:
                if text != "{":
                    raise NotJson
                self._reads_arguments = True
            case "open" if depth == self._depth + 1 and self._is_function(text):
                self._depth += 1
            case "key" if depth == self._depth:
                self._key = json.loads(scanner.lexeme)
            case "scalar" if depth == self._depth:
                self._take_scalar(scanner.lexeme)
            case "scalar" if not self._depth:
                raise NotJson
            case "close" if depth == self._depth and self._reads_arguments:
                self._reads_arguments, self._has_arguments = False, True
            case "close" if depth == self._depth - 1 and self._depth == self._base:
                if not self._name or not self._has_arguments:
                    raise NotJson
            case _:
                pass

    def _open_value(self, scanner: JsonScanner, text: str) -> None:
        """Begin a call, or a list of calls."""
        if text == "{":
            self._depth = self._base = len(scanner.stack)
            self._key, self._has_arguments = "", False
        elif len(scanner.stack) > 1:
            raise NotJson

    def _is_function(self, text: str) -> bool:
        """Return True for the object that contains the call."""
        begun = self._name or self._has_arguments
        return self._key == "function" and text == "{" and self._depth == self._base and not begun

    def _take_scalar(self, lexeme: str) -> None:
        """Take the value of a key that is no object and no list."""
        if self._key == self._name_key and not self._started:
            self._name = json.loads(lexeme) if lexeme.startswith('"') else ""
            if not self._name or not _is_unicode(self._name):
                raise NotJson
        elif self._key == self._arguments_key and not self._has_arguments:
            self._arguments, self._has_arguments = _object_text(lexeme), True

    def _end_object(self) -> Iterator[Delta]:
        """End a call, or the object within `function`."""
        if self._depth > self._base:
            self._depth -= 1
            self._key = ""
            return
        yield from self._finish_call()
        self._depth = self._base = 0


def _is_unicode(text: str) -> bool:
    """Return False for a text with half of a surrogate pair, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object_text(lexeme: str) -> str:
    """Return the JSON object that a JSON string contains; raises `NotJson` for another value."""
    try:
        content: Any = parse_exact(json.loads(lexeme)) if lexeme.startswith('"') else None
        if isinstance(content, Mapping):
            return dump_exact(content)
    except (ValueError, RecursionError):
        pass
    raise NotJson
