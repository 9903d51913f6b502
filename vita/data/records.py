"""The record types of the data layer: `Document`, `Dialogue`, `Preference` and rated answers.

All carry where they came from (`source`), under which `licence`, and an `id` that stays the same in every later
artifact, so that a weight can be traced back to a page and its rights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of plain text with its provenance."""

    id: str
    text: str
    source: str
    licence: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    content: str
    learned: bool = True
    """Of an assistant's message: whether the model learns it; otherwise it is only context for later messages."""

    def as_row(self) -> dict[str, Any]:
        """The message as a row of a file holds it."""
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        return row if self.learned else {**row, "weight": 0}


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in order, with their provenance."""

    id: str
    messages: tuple[Message, ...]
    source: str
    licence: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with a better and a worse answer, each of one message or more."""

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    source: str
    licence: str | None = None
    margin: float | None = None
    """Strength of the preference, if the source states it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnpairedPreference:
    """A prompt with one answer that somebody found good or bad."""

    id: str
    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    good: bool
    source: str
    licence: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DroppedRecord:
    """A document or row that was left out, and why; `reason` is counted, `detail` says it for this one."""

    id: str
    source: str
    reason: str
    detail: str = ""
    repeats: tuple[str, str] | None = None
    """(source, id) of the document with equal text that stays, where it is dropped as a duplicate."""
