"""Readers of calls whose name stands before the JSON object of the arguments (Mistral, DeepSeek, channels)."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator

from vita.infer.answer_formats.call_reader import TAIL, TAIL_BEGIN, CallReader, waits_for
from vita.infer.answer_formats.deltas import Delta
from vita.infer.answer_formats.json_scanner import JsonScanner, NotJson


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
        elif not last and (waits_for(text, ["[TOOL_CALLS]"]) or TAIL_BEGIN.fullmatch(text)):
            return
        elif last and TAIL.fullmatch(text):
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
