"""The format of GPT-OSS: an answer of several messages, each in a channel.

`<|channel|>analysis<|message|>` is reasoning, `final` is content, and a message to `functions.NAME` is a call. The
prompt ends with `<|start|>assistant`, so the answer begins inside the first header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from vita.infer.answer_formats.call_formats import CallFormat
from vita.infer.answer_formats.call_reader import waits_for
from vita.infer.answer_formats.call_source import special_or_text, text_until
from vita.infer.answer_formats.deltas import Delta, TextDelta
from vita.infer.answer_formats.named_calls import NamedCallReader
from vita.infer.answer_formats.parser import held_back

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>", START)
MARKERS = (CHANNEL, MESSAGE, "<|constrain|>", *ENDS)
_END = re.compile("|".join(map(re.escape, ENDS)))
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")


class MessageReader(NamedCallReader):
    """A reader of the message to a function, whose text is the arguments; an empty text is the empty object."""

    def __init__(self, index: int, name: str, *, partial: bool) -> None:
        super().__init__(index, partial=partial)
        self._name, self._state = name, "begin"

    def _read_frame(self, text: str, *, last: bool) -> Iterator[Delta]:
        marker = next((marker for marker in ENDS if text.startswith(marker)), None)
        if self._take_space(text):
            return
        if self._state == "begin" and text.startswith("{"):
            self._state = "arguments"
        elif marker is not None:
            if not self.has_calls:
                self._arguments = "{}"
                yield from self._finish_call()
            self._consume(marker)
            self.end = "end"
        elif last or not waits_for(text, ENDS):
            yield from self._fail()


class HarmonyParser:
    """An incremental parser for the channels of GPT-OSS."""

    def __init__(self, *, parse_calls: bool, partial: bool = False) -> None:
        """Without `parse_calls` the arguments of calls are content; `partial` as for `AnswerParser`."""
        self._parse_calls, self._partial = parse_calls, partial
        self._reader: MessageReader | None = None
        self._pending, self._header = "", ""
        self._in_header, self._count = True, 0
        self._is_broken = False
        """True after an invalid text in the arguments of a call, up to the end of the message."""

    @property
    def in_reasoning(self) -> bool:
        """True while the next text belongs to the channel of the reasoning or to the marker that ends it."""
        return not self._in_header and self._is_analysis

    @property
    def may_reason(self) -> bool:
        """True: each message of an answer can be reasoning."""
        return True

    @property
    def _is_analysis(self) -> bool:
        return f"{CHANNEL}analysis" in self._header

    def push(self, text: str) -> Iterator[Delta]:
        """Take more text, and yield what is complete."""
        self._pending += text
        yield from self._advance(last=False)

    def finish(self) -> Iterator[Delta]:
        """Yield the rest at the end of the answer."""
        yield from self._advance(last=True)

    def _advance(self, *, last: bool) -> Iterator[Delta]:
        while self._pending or (last and self._reader is not None):
            if self._in_header:
                header, mark, rest = self._pending.partition(MESSAGE)
                if not mark:
                    if last and CHANNEL not in header and not header.lstrip().startswith(("to=", "assistant")):
                        yield TextDelta("content", header)  # a model that does not use channels
                        self._pending = ""
                    return
                self._header, self._pending, self._in_header = header, rest, False
                if (name := self._recipient) is not None:
                    self._reader = MessageReader(self._count, name, partial=self._partial)
                continue
            if self._reader is not None:
                yield from self._read_call(self._reader, last=last)
                if self._reader is not None:
                    return
                continue
            match = _END.search(self._pending)
            if match is None:
                keep = 0 if last else held_back(self._pending, ENDS)
                yield from self._text(self._pending[: len(self._pending) - keep])
                self._pending = self._pending[len(self._pending) - keep :]
                return
            yield from self._text(self._pending[: match.start()])
            self._pending = self._pending[match.end() :]
            self._in_header, self._is_broken = True, False

    def _read_call(self, reader: MessageReader, *, last: bool) -> Iterator[Delta]:
        """Read the message to a function; text that is no JSON object is content.

        The text of a call that has begun and becomes invalid is dropped.
        """
        yield from reader.read(self._pending, last=last)
        self._pending = self._pending[reader.position :]
        if not reader.end and not last:
            return
        self._count, self._reader, self._is_broken = reader.index, None, reader.is_broken
        if reader.end == "end":
            self._in_header = True
            return
        self._header = ""
        if not reader.has_calls:
            self._pending = reader.unsent + self._pending

    @property
    def _recipient(self) -> str | None:
        match = _RECIPIENT.search(self._header)
        return match.group(1) if match and self._parse_calls else None

    def _text(self, text: str) -> Iterator[Delta]:
        kind: Literal["reasoning", "content"] = "reasoning" if self._is_analysis else "content"
        if text and not self._is_broken:
            yield TextDelta(kind, text)


def analysis_rules(specials: Mapping[str, int]) -> str:
    """Return the rule `analysis` of a message of reasoning, up to the header of the next message."""
    channel, message, start = (special_or_text(marker, specials) for marker in (CHANNEL, MESSAGE, START))
    text, definition = text_until("ANALYSIS", "<|end|>", specials)
    return f'analysis: {channel} "analysis" {message} {text} {start} "assistant"\n{definition}'


def final_head(specials: Mapping[str, int]) -> str:
    """Return the expression of the header of a message for the user."""
    return f'{special_or_text(CHANNEL, specials)} "final" {special_or_text(MESSAGE, specials)}'


HARMONY = CallFormat("harmony", "", "", markers=MARKERS, closings=("<|end|>",))
