"""The record types of the data layer: documents, dialogues, preferences, rated answers, labelled texts and text pairs.

All carry where they came from (`source`), under which `licence`, and an `id` that stays the same in every later
artifact, so that a weight can be traced back to a page and its rights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vita.data.exact_json import parse_exact

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
class ToolCall:
    """A call of a function by the assistant."""

    name: str
    arguments: str = "{}"
    """The arguments as the text of a JSON object; another text if an answer was cut off or is not valid."""
    id: str | None = None

    @property
    def is_complete(self) -> bool:
        """Return True if the arguments are a JSON object."""
        try:
            return isinstance(parse_exact(self.arguments), dict)
        except (ValueError, RecursionError):
            return False

    @property
    def values(self) -> dict[str, Any]:
        """Return the arguments of a complete call by name."""
        return json.loads(self.arguments)

    def as_row(self) -> dict[str, Any]:
        """Return the call in the format of the OpenAI API."""
        row: dict[str, Any] = {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}
        return row if self.id is None else {"id": self.id, **row}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a dialogue."""

    role: Role
    content: str
    learned: bool = True
    """Of an assistant's message: whether the model learns it; otherwise it is only context for later messages."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls of functions by the assistant, after its content."""
    tool_call_id: str | None = None
    """Of a tool message: the id of the call of which it is the result."""
    name: str | None = None
    """Of a tool message: the name of the function. Otherwise the name of the author."""
    reasoning: str | None = None
    """The reasoning of the assistant before its content."""

    @property
    def text(self) -> str:
        """Return all text of the message: reasoning, content and calls."""
        calls = (f"{call.name}({call.arguments})" for call in self.tool_calls)
        return "\n".join(part for part in (self.reasoning or "", self.content, *calls) if part)

    def as_row(self) -> dict[str, Any]:
        """Return the message as a row of a file holds it."""
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            row["tool_calls"] = [call.as_row() for call in self.tool_calls]
        optional = {"tool_call_id": self.tool_call_id, "name": self.name, "reasoning_content": self.reasoning}
        row |= {name: value for name, value in optional.items() if value is not None}
        return row if self.learned else {**row, "weight": 0}


@dataclass(frozen=True, slots=True)
class TemplateVariables:
    """The values that a chat template reads in addition to the messages."""

    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the assistant can call, in the format of the OpenAI API."""
    documents: tuple[Mapping[str, Any], ...] = ()
    """Documents for answers that cite them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further variables by name: `chat_template_kwargs`, such as `enable_thinking`."""

    def __bool__(self) -> bool:
        return bool(self.tools or self.documents or self.settings)

    def as_row(self) -> dict[str, Any]:
        """Return the fields of a row that hold these values."""
        fields = {"tools": list(self.tools), "documents": list(self.documents)}
        fields["chat_template_kwargs"] = dict(self.settings)  # type: ignore[assignment]
        return {name: value for name, value in fields.items() if value}


NO_VARIABLES = TemplateVariables()


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in order, with their provenance."""

    id: str
    messages: tuple[Message, ...]
    source: str
    licence: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    variables: TemplateVariables = NO_VARIABLES
    """Tools and further variables of the chat template."""


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
    variables: TemplateVariables = NO_VARIABLES
    """Tools and further variables of the chat template."""


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
    variables: TemplateVariables = NO_VARIABLES
    """Tools and further variables of the chat template."""


Label = str | int | float | tuple[str, ...]
"""A class, a number (regression), or several classes (multi-label), as a row states it."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text or a pair of texts with its label, for a classifier."""

    id: str
    texts: tuple[str, ...]
    """One text, or two."""
    label: Label
    source: str
    licence: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two related texts, for embeddings: a query with its document, a question with its answer, or a paraphrase."""

    id: str
    anchor: str
    positive: str
    source: str
    negatives: tuple[str, ...] = ()
    """Texts that are similar to the positive text and do not match the anchor (hard negatives)."""
    score: float | None = None
    """Similarity of the two texts, if the source states it."""
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
    content: str | None = None
    """The content hash of a near copy, with which its erasure finds it under any id."""
    size: int = 0
    """Bytes of the text of a document that was read and must not be used."""
    licence: str | None = None
    """The licence of a document, `not stated` without one; None for a row that is no document."""


def text_size(record: object) -> int:
    """Return the bytes of the text of a document; 0 for other records."""
    return len(record.text.encode("utf-8", "surrogatepass")) if isinstance(record, Document) else 0
