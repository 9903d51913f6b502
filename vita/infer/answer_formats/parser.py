"""Incremental parsing of an answer: reasoning first, then content, and blocks of calls.

    parser = AnswerParser(reasoning=("<think>", "</think>"), calls=format, tools=tools)
    deltas = [*parser.push("<think>Two"), *parser.push(" and two.</think>4"), *parser.finish()]

Law: the concatenated texts and the calls do not depend on the division of the answer into pieces. Text that may begin
a marker is held back until it is complete. A block without a call in the format is content, with its markers. In a
block with calls, text that belongs to no call is content, without the marker that ends the block. The text of a call
that has begun and becomes invalid is dropped from there to the end of the block: its begin was returned as a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from vita.infer.answer_formats.call_formats import CallFormat
from vita.infer.answer_formats.call_reader import CallReader
from vita.infer.answer_formats.deltas import Delta, TextDelta

_SEPARATORS = " \r\n\t;,"
"""Characters between the calls of a block."""


class DeltaParser(Protocol):
    """A parser that takes the text of an answer in pieces."""

    def push(self, text: str) -> Iterator[Delta]:
        """Take more text, and yield what is complete."""
        ...

    def finish(self) -> Iterator[Delta]:
        """Yield the rest at the end of the answer."""
        ...

    @property
    def in_reasoning(self) -> bool:
        """True while the next text belongs to the reasoning or to the marker that ends it."""
        ...

    @property
    def may_reason(self) -> bool:
        """True while reasoning can follow."""
        ...


class AnswerParser:
    """A parser for answers with optional reasoning at the start and optional blocks of calls."""

    def __init__(
        self,
        *,
        reasoning: tuple[str, str] | None = None,
        in_reasoning: bool = False,
        calls: CallFormat | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        partial: bool = False,
    ) -> None:
        """Without `calls` their text is content. `in_reasoning` is True if the prompt has begun the reasoning.

        With `partial`, calls are returned while they are written (`CallStart`, `ArgumentsDelta`), also those that are
        cut off; otherwise when they are complete (`CallDelta`).
        """
        self._reasoning, self._calls, self._tools, self._partial = reasoning, calls, tools, partial
        self._reader: CallReader | None = None
        self._state: Literal["start", "reasoning", "content", "block", "broken"] = "start"
        if in_reasoning:
            self._state = "reasoning"
        self._pending, self._space, self._count = "", "", 0
        self._end = ""
        """The text that ends the last block, if it is expected within the content."""
        self._strip = True
        """True while the next text follows a marker, so that its leading line breaks are removed."""

    @property
    def in_reasoning(self) -> bool:
        """True while the next text belongs to the reasoning or to the marker that ends it."""
        return self._state == "reasoning"

    @property
    def may_reason(self) -> bool:
        """True while reasoning can follow, which only begins an answer."""
        return self._state in ("start", "reasoning")

    def push(self, text: str) -> Iterator[Delta]:
        """Take more text, and yield what is complete."""
        self._pending += text
        yield from self._advance(last=False)

    def finish(self) -> Iterator[Delta]:
        """Yield the rest at the end of the answer."""
        yield from self._advance(last=True)
        if self._space and (self._state == "content" and not self._count):
            yield TextDelta("content", self._space)
        self._space = ""

    def _advance(self, *, last: bool) -> Iterator[Delta]:
        """Consume the pending text as far as its meaning is certain."""
        while True:
            state, length = self._state, len(self._pending)
            match state:
                case "start":
                    self._begin(last=last)
                case "reasoning":
                    yield from self._read_reasoning(last=last)
                case "content":
                    yield from self._read_content(last=last)
                case "block":
                    yield from self._read_block(last=last)
                case "broken":
                    self._skip_broken_call()
            if self._state == state and (len(self._pending) == length or not self._pending):
                return

    def _begin(self, *, last: bool) -> None:
        """Decide whether the answer begins with reasoning, with a block without a start, or with content."""
        text = self._pending.lstrip()
        if self._reasoning:
            start = self._reasoning[0]
            if text.startswith(start):
                self._pending, self._state = text[len(start) :], "reasoning"
                return
            if start.startswith(text) and not last:
                return
        if self._calls and not self._calls.start and self._calls.may_begin(self._pending):
            if text or last:
                self._state, self._strip = "block", False
            return
        self._state, self._strip = "content", False

    def _read_reasoning(self, *, last: bool) -> Iterator[Delta]:
        assert self._reasoning is not None
        end = self._reasoning[1]
        text, end_mark, rest = self._pending.partition(end)
        if end_mark:
            yield from self._text("reasoning", text)
            self._pending, self._space, self._strip = rest, "", True
            self._state = "content"
            return
        keep = 0 if last else held_back(text, [end])
        self._pending = text[len(text) - keep :]
        yield from self._text("reasoning", text[: len(text) - keep])

    def _read_content(self, *, last: bool) -> Iterator[Delta]:
        text = self._pending
        if self._strip:
            if self._calls and not self._calls.start and self._calls.may_begin(text):
                self._state = "block" if text.strip() else self._state
                return
            text = text.lstrip("\n")
        start = self._calls.start if self._calls else ""
        markers = [marker for marker in (start, self._end) if marker]
        before, mark, rest = _partition(text, markers)
        keep = 0 if last or mark else held_back(before, markers)
        self._pending = rest if mark else before[len(before) - keep :]
        yield from self._text("content", before[: len(before) - keep])
        if mark:
            self._state, self._end = ("block" if mark == start else "content"), ""

    def _read_block(self, *, last: bool) -> Iterator[Delta]:
        assert self._calls is not None
        if self._reader is None:
            if not self._pending.strip() and not last:
                return
            self._reader = self._calls.reader_of(self._pending, self._tools, self._count, partial=self._partial)
        reader = self._reader
        yield from reader.read(self._pending, last=last)
        self._pending = self._pending[reader.position :]
        if not reader.end and not last:
            return
        text = reader.unsent
        if reader.has_calls:
            self._count, self._space, self._strip = max(reader.index, self._count + 1), "", True
            self._end = self._calls.end if reader.end == "failed" else ""
            if reader.end == "end" or not text.strip(_SEPARATORS):
                text = ""
        else:
            text = self._calls.start + text
            self._strip = self._strip and bool(text)
        self._state, self._reader = ("broken" if reader.is_broken else "content"), None
        yield from self._text("content", text)

    def _skip_broken_call(self) -> None:
        """Drop text up to the end of the block, or the start of the next one."""
        assert self._calls is not None
        start = self._calls.start
        markers = [marker for marker in (start, self._end) if marker]
        _, mark, rest = _partition(self._pending, markers)
        if mark:
            self._pending, self._end = rest, ""
            self._state = "block" if mark == start else "content"
        else:
            keep = held_back(self._pending, markers)
            self._pending = self._pending[len(self._pending) - keep :]

    def _text(self, kind: Literal["reasoning", "content"], text: str) -> Iterator[Delta]:
        """Yield text; white space at its end waits for more text if a marker may follow that removes it."""
        if self._strip:
            text = text.lstrip("\n")
            self._strip = not text
        waits = kind == "reasoning" or (self._calls is not None)
        text = self._space + text
        bare = text.rstrip() if waits else text
        self._space = text[len(bare) :]
        if bare:
            yield TextDelta(kind, bare)


def _partition(text: str, markers: Sequence[str]) -> tuple[str, str, str]:
    """Return the text before the first of the markers, this marker, and the text after it."""
    positions = [(text.find(marker), marker) for marker in markers if marker in text]
    if not positions:
        return text, "", ""
    position, marker = min(positions)
    return text[:position], marker, text[position + len(marker) :]


def held_back(text: str, markers: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that may begin one of the markers."""
    longest = max(map(len, markers), default=0)
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(marker.startswith(text[-length:]) for marker in markers):
            return length
    return 0
