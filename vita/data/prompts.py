"""What a model is asked while it learns from rewards: prompts without answers, and what a reward may want to know.

    for prompt in prompts(Source(path="sums.jsonl")): prompt.messages, prompt.columns

Any source will do. Of a dialogue it is all before the assistant's last words, of a preference its prompt; a row of
another form needs `prompt`, a text or messages, and every other field goes to the reward under its own name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from vita.data import formats
from vita.data.preferences import detect as detect_opinion
from vita.data.readers import Row, kind_of
from vita.data.records import ROLES, Dialogue, Message
from vita.data.sources import Source, Stretch, dialogues, opinions, read_files, read_huggingface, usable_files
from vita.spine.errors import DataError


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages that end where the assistant is to speak."""

    id: str
    messages: tuple[Message, ...]
    source: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What a reward is told beside: a true answer, for instance."""


def prompts(source: Source) -> Iterator[Prompt]:
    """The prompts of a source in their order; what asks nothing is passed over."""
    if source.repeat != 1:
        hint = "leave `repeat` out; prompts are asked in a drawn order, again and again"
        raise DataError(source.label(), "prompts are not repeated", hint=hint)
    first = _first_row(source)
    if (source.world is not None and source.part == "preferences") or (first and detect_opinion(first)):
        found = (Prompt(one.id, one.prompt, one.source, one.metadata) for one in opinions(source))
    elif first and "prompt" in first and not formats.detect(first):
        found = islice(_of_rows(source), source.limit)
    else:
        found = (prompt for one in dialogues(source) if (prompt := _of_dialogue(one)))
    return (one for one in found if one.messages)


def distinct(found: Iterator[Prompt]) -> list[Prompt]:
    """Each prompt once, so that what is held out is never asked while learning."""
    kept: dict[tuple[Message, ...], Prompt] = {}
    for one in found:
        kept.setdefault(one.messages, one)
    return list(kept.values())


def _of_dialogue(dialogue: Dialogue) -> Prompt | None:
    messages = dialogue.messages
    last = max((at for at, one in enumerate(messages) if one.role == "assistant"), default=len(messages))
    asked = messages[:last]
    if not asked or asked[-1].role == "assistant":
        return None
    return Prompt(dialogue.id, asked, dialogue.source, dialogue.metadata)


def _of_rows(source: Source) -> Iterator[Prompt]:
    for row in _rows(source):
        values = row.values or {}
        given = values.get("prompt")
        messages = _messages(given)
        if row.problem or messages is None:
            if source.on_bad_row == "drop":
                continue
            expected = row.problem.expected if row.problem else "`prompt` as a text, or as messages [{role, content}]"
            got = row.problem.got if row.problem else kind_of(given)
            raise DataError(row.where, expected=expected, got=got, hint="mend the row, or set `on_bad_row: drop`")
        columns = {name: value for name, value in values.items() if name not in ("prompt", "id")}
        yield Prompt(str(values.get("id") or f"{row.name}:{row.number}"), messages, source.label(), columns)


def _messages(value: Any) -> tuple[Message, ...] | None:
    if isinstance(value, str) and value.strip():
        return (Message("user", value),)
    if not isinstance(value, list) or not value:
        return None
    if not all(
        isinstance(one, dict) and one.get("role") in ROLES and isinstance(one.get("content"), str) for one in value
    ):
        return None
    return tuple(Message(one["role"], one["content"]) for one in value)


def _first_row(source: Source) -> Mapping[str, Any] | None:
    row = next(_rows(source), None) if source.world is None else None
    return row.values if row else None


def _rows(source: Source) -> Iterator[Row]:
    if source.path is None:
        return read_huggingface(Stretch(source), Dialogue)
    return read_files(Stretch(source, tuple(usable_files(source, Dialogue))), Dialogue)
