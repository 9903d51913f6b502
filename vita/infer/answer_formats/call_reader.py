"""Readers of a block of calls that arrives in pieces, one object per block.

A reader consumes text as far as its meaning is certain. With `partial`, it returns a call while the call is written:
from the moment that its name is known and its arguments have begun, also if it is cut off later. Without `partial` only
complete calls are returned.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from vita.data.records import ToolCall
from vita.infer.answer_formats.deltas import ArgumentsDelta, CallDelta, CallStart, Delta

TAIL = re.compile(r"(?:\s|<[^<>\s]+>)*")
"""Ends of turns that a template writes after the calls."""
TAIL_BEGIN = re.compile(r"(?:\s|<[^<>\s]+>)*(?:<[^<>\s]*)?")


class NotACall(Exception):
    """An error for a block that contains no calls in the format."""


class CallReader(ABC):
    """The state of one block of calls."""

    def __init__(self, index: int, *, partial: bool) -> None:
        """`index` is the number of earlier calls in the answer."""
        self.index = index
        self.position = 0
        """Number of characters that the last `read` consumed."""
        self.end: Literal["", "end", "failed"] = ""
        """`end` after the last character of the block, `failed` if the text after `position` is no part of it."""
        self.is_broken = False
        """True if the block failed within a call that had begun, whose remaining text is no part of the answer."""
        self.unsent = ""
        """The consumed text that belongs to no returned call: content, if no call follows."""
        self._first, self._partial = index, partial
        self._name, self._arguments, self._started = "", "", False

    @property
    def has_calls(self) -> bool:
        """True if the block has begun or returned a call."""
        return self.index > self._first or self._started

    @abstractmethod
    def read(self, text: str, *, last: bool) -> Iterator[Delta]:
        """Consume text and yield its calls; `text` begins with what the last `read` did not consume.

        `last` is True if no text follows.
        """

    def _consume(self, text: str) -> None:
        """Count consumed text."""
        self.position += len(text)
        if not self._started:
            self.unsent += text

    def _grow(self) -> Iterator[Delta]:
        """Yield the new part of a call whose name is known and whose arguments have begun."""
        if not self._partial or not self._name or not self._arguments:
            return
        if not self._started:
            self._started, self.unsent = True, ""
            yield CallStart(self.index, self._name)
        yield ArgumentsDelta(self.index, self._arguments)
        self._arguments = ""

    def _finish_call(self) -> Iterator[Delta]:
        """Yield the end of a call, or the complete call."""
        if self._partial:
            yield from self._grow()
        else:
            yield CallDelta(self.index, ToolCall(self._name, self._arguments))
        self.index += 1
        self._name, self._arguments, self._started, self.unsent = "", "", False, ""

    def _fail(self) -> Iterator[Delta]:
        """End the block before the text at `position`; a call that has begun ends as it is."""
        if self._started:
            self.is_broken = True
            yield from self._finish_call()
        self.end = "failed"


class BlockReader(CallReader):
    """A reader for formats whose calls are parsed when the block is complete."""

    def __init__(self, index: int, *, partial: bool, end: str, parse: Callable[[str], list[ToolCall]]) -> None:
        """`end` is the text that ends the block; `parse` raises `NotACall` for a block without calls."""
        super().__init__(index, partial=partial)
        self._end, self._parse = end, parse

    def read(self, text: str, *, last: bool) -> Iterator[Delta]:
        self.position, end = 0, self._end
        block, end_mark, rest = text.partition(end) if end else (text, "", "")
        if not end_mark and not last:
            return
        while end_mark and ends_in_string(block):  # the marker is a part of a text in JSON
            if end not in rest:
                if not last:
                    return
                break
            part, _, rest = rest.partition(end)
            block += end + part
        try:
            calls = self._parse(block) if block.strip() else []
        except NotACall:
            calls = []
        self._consume(block + end_mark)
        for call in calls:
            self._name, self._arguments = call.name, call.arguments
            yield from self._finish_call()
        self.end = "end" if calls else "failed"


def waits_for(text: str, markers: Sequence[str]) -> bool:
    """Return True if `text` is an incomplete begin of one of the markers."""
    return any(len(text) < len(marker) and marker.startswith(text) for marker in markers)


def ends_in_string(block: str) -> bool:
    """Return True if a block of JSON ends within a string."""
    if not block.lstrip().startswith(("{", "[")):
        return False
    return len(re.findall(r'"', re.sub(r"\\.", "", block))) % 2 == 1
