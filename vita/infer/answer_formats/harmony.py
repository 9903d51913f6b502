"""The format of GPT-OSS: an answer of several messages, each in a channel.

`<|channel|>analysis<|message|>` is reasoning, `final` is content, and a message to `functions.NAME` is a call. The
prompt ends with `<|start|>assistant`, so the answer begins inside the first header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from vita.data.records import ToolCall
from vita.infer.answer_formats.call_formats import CallFormat, NotACall, llama
from vita.infer.answer_formats.call_source import special_or_text, text_until
from vita.infer.answer_formats.parser import CallDelta, Delta, TextDelta, ends_in_string, held_back

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>", START)
MARKERS = (CHANNEL, MESSAGE, "<|constrain|>", *ENDS)
_END = re.compile("|".join(map(re.escape, ENDS)))
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")


class HarmonyParser:
    """An incremental parser for the channels of GPT-OSS."""

    def __init__(self, *, parse_calls: bool) -> None:
        """Without `parse_calls` the arguments of calls are content."""
        self._parse_calls = parse_calls
        self._pending, self._header = "", ""
        self._in_header, self._count = True, 0

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
        while self._pending:
            if self._in_header:
                header, mark, rest = self._pending.partition(MESSAGE)
                if not mark:
                    if last and CHANNEL not in header and not header.lstrip().startswith(("to=", "assistant")):
                        yield TextDelta("content", header)  # a model that does not use channels
                        self._pending = ""
                    return
                self._header, self._pending, self._in_header = header, rest, False
                continue
            end = self._end()
            body, marker = self._pending[: end[0]], end[1]
            if not marker and not last:
                keep = held_back(body, ENDS)
                if not self._recipient:
                    yield from self._text(body[: len(body) - keep])
                    self._pending = body[len(body) - keep :]
                return
            yield from self._close(body)
            self._pending = self._pending[end[0] + len(marker) :]
            self._in_header = True

    def _end(self) -> tuple[int, str]:
        """Return the position of the marker that ends the message, and the marker; an empty marker if there is none.

        A marker within a string of the arguments of a call is a part of the string.
        """
        for match in _END.finditer(self._pending):
            if not self._recipient or not ends_in_string(self._pending[: match.start()]):
                return match.start(), match.group()
        return len(self._pending), ""

    @property
    def _recipient(self) -> str | None:
        match = _RECIPIENT.search(self._header)
        return match.group(1) if match and self._parse_calls else None

    def _close(self, body: str) -> Iterator[Delta]:
        name = self._recipient
        if name is None:
            yield from self._text(body)
            return
        try:
            (call,) = llama(f'{{"name": "{name}", "parameters": {body or "{}"}}}', ())
        except (NotACall, ValueError):
            yield TextDelta("content", body)
            return
        yield CallDelta(self._count, ToolCall(call.name, call.arguments))
        self._count += 1

    def _text(self, text: str) -> Iterator[Delta]:
        kind: Literal["reasoning", "content"] = "reasoning" if self._is_analysis else "content"
        if text:
            yield TextDelta(kind, text)


def parse_harmony(block: str, tools: Sequence[Mapping[str, Any]]) -> list[ToolCall]:
    """Return the calls of a complete answer."""
    parser = HarmonyParser(parse_calls=True)
    deltas = [*parser.push(block), *parser.finish()]
    calls = [delta.call for delta in deltas if isinstance(delta, CallDelta)]
    if not calls:
        raise NotACall
    return calls


def analysis_rules(specials: Mapping[str, int]) -> str:
    """Return the rule `analysis` of a message of reasoning, up to the header of the next message."""
    channel, message, start = (special_or_text(marker, specials) for marker in (CHANNEL, MESSAGE, START))
    text, definition = text_until("ANALYSIS", "<|end|>", specials)
    return f'analysis: {channel} "analysis" {message} {text} {start} "assistant"\n{definition}'


def final_head(specials: Mapping[str, int]) -> str:
    """Return the expression of the header of a message for the user."""
    return f'{special_or_text(CHANNEL, specials)} "final" {special_or_text(MESSAGE, specials)}'


HARMONY = CallFormat("harmony", "", "", parse_harmony, MARKERS, closings=("<|end|>",))
