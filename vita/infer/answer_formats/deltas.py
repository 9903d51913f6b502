"""The deltas in which a parser returns an answer: text, complete calls, and calls that are still being written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vita.data.records import ToolCall


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of the reasoning or of the content."""

    kind: Literal["reasoning", "content"]
    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A complete call; `index` counts the calls of the answer."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class CallStart:
    """The begin of a call, whose arguments follow as `ArgumentsDelta`."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """New text of the arguments of a call."""

    index: int
    text: str


Delta = TextDelta | CallDelta | CallStart | ArgumentsDelta
