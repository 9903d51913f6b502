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

from vita.data.records import Dialogue, Drop, Message
from vita.data.sources import dialogue_formats
from vita.data.sources.erased import without_erased
from vita.data.sources.fields import Misfit, check_row
from vita.data.sources.messages import side, system
from vita.data.sources.preference_formats import detect as detect_opinion
from vita.data.sources.read import (
    Source,
    Stretch,
    dialogues,
    first_row,
    opinions,
    read_files,
    read_huggingface,
    usable_files,
)
from vita.data.sources.readers import Problem, Row
from vita.data.sources.records_from_rows import Dropped, Unusable, id_of, usable
from vita.spine.contents import current_erasures
from vita.spine.errors import DataError


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages that end where the assistant is to speak."""

    id: str
    messages: tuple[Message, ...]
    source: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What a reward is told beside: a true answer, for instance."""


def prompts(source: Source, *, dropped: Dropped | None = None) -> Iterator[Prompt]:
    """The prompts of a source in their order; what cannot be asked goes to `dropped` with its reason."""
    if source.repeat != 1:
        hint = "leave `repeat` out; prompts are asked in a drawn order, again and again"
        raise DataError(source.label(), "prompts are not repeated", hint=hint)
    row = first_row(source)
    first = row.values if row else None
    if (source.world is not None and source.part == "preferences") or (first and detect_opinion(first)):
        for opinion in opinions(source, dropped=dropped):
            yield Prompt(opinion.id, opinion.prompt, opinion.source, opinion.metadata)
    elif first and "prompt" in first and not dialogue_formats.detect(first):
        yield from islice(_without_erased(usable(_rows(source), source, _of_row, dropped), dropped), source.limit)
    else:
        for dialogue in dialogues(source, dropped=dropped):
            prompt = _of_dialogue(dialogue)
            if prompt:
                yield prompt
            elif dropped:
                dropped(Drop(dialogue.id, dialogue.source, "no_prompt", "nothing comes before the last answer"))


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


def _without_erased(found: Iterator[Prompt], dropped: Dropped | None) -> Iterator[Prompt]:
    """The prompts that no erasure of this run covers."""
    erasures = current_erasures()
    for prompt in found:
        record = Dialogue(prompt.id, prompt.messages, prompt.source)
        if not erasures or any(without_erased([record], erasures, dropped)):
            yield prompt


def _of_row(row: Row, source: Source) -> Prompt:
    values = row.values or {}
    try:
        check_row(values, _READS)
        messages = [*system(values), *side(values, "prompt", "user")]
    except Misfit as error:
        raise Unusable(Problem(error.reason, _EXPECTED, str(error), error.hint)) from None
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise Unusable(Problem("no_prompt", _EXPECTED, "`prompt` without a text of the user"))
    columns = {name: value for name, value in values.items() if name not in {*_READS, "id"}}
    return Prompt(id_of(row, values), tuple(messages), source.label(), columns)


_READS = frozenset({"prompt", "system"})
_EXPECTED = "`prompt` as a text, or as messages [{role, content}]"


def _rows(source: Source) -> Iterator[Row]:
    if source.path is None:
        return read_huggingface(Stretch(source), Dialogue)
    return read_files(Stretch(source, tuple(usable_files(source, Dialogue))), Dialogue)
