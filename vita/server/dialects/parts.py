"""The parts of a streamed chat answer, in order: reasoning, text and calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Part:
    """A part of an answer."""

    kind: Kind
    index: int
    text: str = ""
    """The reasoning, the text, or the arguments of a call."""
    id: str = ""
    """The id of a call."""
    name: str = ""
    """The name of the called function."""


@dataclass(frozen=True)
class PartChange:
    """A change of an answer: a part begins, grows by a text, or ends."""

    kind: Literal["begin", "grow", "end"]
    part: Part
    text: str = ""


@dataclass
class AnswerReader:
    """Reads the chunks of one choice as changes of its parts."""

    parts: list[Part] = field(default_factory=list)
    finish: str | None = None
    stop: str | None = None
    """The stop text that ended the answer."""
    usage: dict[str, Any] = field(default_factory=dict)
    _open: Part | None = None

    def read(self, chunk: Mapping[str, Any]) -> Iterator[PartChange]:
        """Yield the changes of a chunk."""
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if reasoning := delta.get("reasoning_content"):
                yield from self._grow("reasoning", reasoning)
            if content := delta.get("content"):
                yield from self._grow("text", content)
            for call in delta.get("tool_calls") or ():
                yield from self._call(call)
            self.finish = choice.get("finish_reason") or self.finish
            self.stop = choice.get("stop_reason") or self.stop

    def close(self) -> Iterator[PartChange]:
        """End the last part."""
        if self._open is not None:
            part, self._open = self._open, None
            yield PartChange("end", part)

    def _grow(self, kind: Kind, text: str) -> Iterator[PartChange]:
        if self._open is None or self._open.kind != kind:
            yield from self._begin(Part(kind, len(self.parts)))
        part = self._open
        assert part is not None
        part.text += text
        yield PartChange("grow", part, text)

    def _call(self, call: Mapping[str, Any]) -> Iterator[PartChange]:
        function = call.get("function") or {}
        if call.get("id"):
            yield from self._begin(Part("call", len(self.parts), id=call["id"], name=function.get("name", "")))
        if function.get("arguments"):
            yield from self._grow("call", function["arguments"])

    def _begin(self, part: Part) -> Iterator[PartChange]:
        yield from self.close()
        self.parts.append(part)
        self._open = part
        yield PartChange("begin", part)


@dataclass(frozen=True)
class CompleteAnswer:
    """A chat answer that was not streamed."""

    parts: list[Part]
    finish: str | None
    stop: str | None
    """The stop text that ended the answer."""


def read_answer(completion: Mapping[str, Any]) -> CompleteAnswer:
    """Return the first choice of a chat completion, with its parts in the order of the answer."""
    choice = (completion.get("choices") or [{}])[0]
    message = choice.get("message") or {}
    texts = {"reasoning": message.get("reasoning_content") or "", "text": message.get("content") or ""}
    calls = [
        Part("call", 0, call["function"]["arguments"], call["id"], call["function"]["name"])
        for call in message.get("tool_calls") or ()
    ]
    order = choice.get("parts") or [
        *({"type": kind, "length": len(text)} for kind, text in texts.items() if text),
        *({"type": "call"} for _ in calls),
    ]
    parts, starts, remaining = list[Part](), dict.fromkeys(texts, 0), iter(calls)
    for number, entry in enumerate(order):
        kind = entry["type"]
        if kind == "call":
            parts.append(replace(next(remaining), index=number))
        else:
            start, stop = starts[kind], starts[kind] + entry["length"]
            parts.append(Part(kind, number, texts[kind][start:stop]))
            starts[kind] = stop
    return CompleteAnswer(parts, choice.get("finish_reason"), choice.get("stop_reason"))
