"""Readers of calls whose arguments are a JSON object in the text: they return the arguments as the model writes them.

`JsonCallReader` reads JSON objects with the name and the arguments of a function, `NamedCallReader` the formats that
write the name before the arguments.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from vita.data.exact_json import dump_exact, parse_exact
from vita.infer.answer_formats.call_reader import CallReader, waits_for
from vita.infer.answer_formats.deltas import Delta
from vita.infer.answer_formats.json_scanner import JsonScanner, NotJson

_TAIL = re.compile(r"(?:\s|<[^<>\s]+>)*")
"""Ends of turns that a template writes after the calls."""
_TAIL_BEGIN = re.compile(r"(?:\s|<[^<>\s]+>)*(?:<[^<>\s]*)?")


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
        elif last and self.has_calls and (waits_for(rest, [end]) if end else _TAIL.fullmatch(rest)):
            self._consume(rest)
            self.end = "end"
        elif last or not self._may_continue(rest):
            yield from self._fail()

    def _may_continue(self, rest: str) -> bool:
        """Return True if more text can make `rest` an end or a start of the block."""
        if waits_for(rest, [self._end]) or (not self._values and waits_for(rest, [self._optional_start])):
            return True
        return self.has_calls and not self._end and bool(_TAIL_BEGIN.fullmatch(rest))

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


class NamedCallReader(CallReader):
    """A reader of calls whose name stands before the JSON object of the arguments."""

    def __init__(self, index: int, *, partial: bool) -> None:
        super().__init__(index, partial=partial)
        self._scanner: JsonScanner | None = None
        self._state = "between"

    def read(self, text: str, *, last: bool) -> Iterator[Delta]:
        self.position = 0
        while self.position < len(text) and not self.end:
            before = self.position, self._state
            if self._state == "arguments":
                yield from self._read_arguments(text)
            else:
                yield from self._read_frame(text[self.position :], last=last)
            if not self._started:
                yield from self._grow()
            ends_number = self._scanner is not None and self._scanner.event
            if before == (self.position, self._state) and not ends_number:
                break
        yield from self._grow()

    @abstractmethod
    def _read_frame(self, text: str, *, last: bool) -> Iterator[Delta]:
        """Read text outside of the arguments; the state `arguments` begins them."""

    def _take_space(self, text: str) -> bool:
        """Consume white space at the begin of the text; returns whether there is any."""
        space = text[: len(text) - len(text.lstrip())]
        self._consume(space)
        return bool(space)

    def _read_arguments(self, text: str) -> Iterator[Delta]:
        start = self.position
        if self._scanner is None:
            self._scanner = JsonScanner()
            if text[start] != "{":
                yield from self._fail()
                return
        try:
            end = self._scanner.step(text, start)
        except NotJson:
            yield from self._fail()
            return
        self._arguments += text[start:end]
        self._consume(text[start:end])
        if self._scanner.done:
            self._scanner, self._state = None, "tail"
            yield from self._finish_call()


class MistralReader(NamedCallReader):
    """A reader of `name[ARGS]{...}`, repeated after `[TOOL_CALLS]`."""

    def __init__(self, index: int, *, partial: bool) -> None:
        super().__init__(index, partial=partial)
        self._state = "head"

    def _read_frame(self, text: str, *, last: bool) -> Iterator[Delta]:
        if self._take_space(text):
            return
        if self._state == "tail":
            yield from self._read_between(text, last=last)
            return
        name, mark, rest = text.partition("[ARGS]")
        if not mark:
            if last:
                yield from self._fail()
            return
        space = len(rest) - len(rest.lstrip())
        if space == len(rest) and not last:
            return
        self._name = name.partition("[CALL_ID]")[0].strip()
        if not self._name:
            yield from self._fail()
            return
        self._consume(name + mark + rest[:space])
        self._state = "arguments"

    def _read_between(self, text: str, *, last: bool) -> Iterator[Delta]:
        if text.startswith("[TOOL_CALLS]"):
            self._consume("[TOOL_CALLS]")
            self._state = "head"
        elif not last and (waits_for(text, ["[TOOL_CALLS]"]) or _TAIL_BEGIN.fullmatch(text)):
            return
        elif last and _TAIL.fullmatch(text):
            self._consume(text)
            self.end = "end"
        else:
            yield from self._fail()


class DeepseekReader(NamedCallReader):
    """A reader of `function<｜tool▁sep｜>name` with a JSON code block (V3, R1), or `name<｜tool▁sep｜>{...}` (V3.1)."""

    def __init__(self, index: int, *, partial: bool, markers: tuple[str, str, str], end: str) -> None:
        """`markers` stand before a call, after its head, and after the call; `end` after the block."""
        super().__init__(index, partial=partial)
        self._begin, self._separator, self._finish = markers
        self._end = end
        self._head = ""

    def _read_frame(self, text: str, *, last: bool) -> Iterator[Delta]:
        match self._state:
            case "head":
                yield from self._read_head(text, last=last)
            case "name":
                yield from self._read_name(text, last=last)
            case _ if self._take_space(text):
                return
            case "tail" if text.startswith("```"):  # the end of a code block
                self._consume("```")
                self._state = "finish"
            case _:
                yield from self._read_markers(text, last=last)

    def _read_markers(self, text: str, *, last: bool) -> Iterator[Delta]:
        """Read the markers after and before a call; those after it can be missing."""
        markers = [self._begin, self._end, *([self._finish] if self._state in ("tail", "finish") else [])]
        marker = next((marker for marker in markers if text.startswith(marker)), None)
        if marker is None:
            if last or not waits_for(text, [*markers, *(["```"] if self._state == "tail" else [])]):
                yield from self._fail()
            return
        if marker == self._end and not self.has_calls:
            yield from self._fail()
            return
        self._consume(marker)
        self._state = "head" if marker == self._begin else "between"
        self.end = "end" if marker == self._end else ""

    def _read_head(self, text: str, *, last: bool) -> Iterator[Delta]:
        head, mark, _ = text.partition(self._separator)
        if mark:
            self._consume(head + mark)
            self._head, self._state = head.strip(), "name"
        elif last:
            yield from self._fail()

    def _read_name(self, text: str, *, last: bool) -> Iterator[Delta]:
        """Read the name before a code block, or nothing if the arguments begin."""
        if self._take_space(text):
            return
        block = re.match(r"(\S+?)\s*```json\s*(?=\S)", text)
        if text.startswith("{"):
            self._name, self._state = self._head, "arguments"
        elif block is not None:
            self._name, self._state = block.group(1), "arguments"
            self._consume(block.group())
        elif last or re.match(r"\S+\s+[^`\s]", text):
            yield from self._fail()
        if self._state == "arguments" and not self._name:
            yield from self._fail()


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
