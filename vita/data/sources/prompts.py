"""Prompts for reinforcement learning, with the further fields of their rows as columns for rewards.

    for prompt in prompts(Source(path="sums.jsonl")): prompt.messages, prompt.columns

Any source can be used. The prompt of a dialogue is everything before the assistant's last message; a preference has its
prompt. Other rows need `prompt`, a text or messages; all other fields are columns under their own name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from vita.data.record_rights import RIGHTS_FIELDS, permitted_records
from vita.data.records import Dialogue, DroppedRecord, Message, TemplateVariables
from vita.data.sources import dialogue_formats
from vita.data.sources.erased import without_erased
from vita.data.sources.fields import TEMPLATE_FIELDS, FormatMismatch, UnsupportedField, check_row, is_empty
from vita.data.sources.messages import parse_text_or_messages, system_messages
from vita.data.sources.preference_formats import detect as detect_preference
from vita.data.sources.read import (
    Source,
    SourceSlice,
    dialogues,
    first_row,
    preferences_and_ratings,
    read_files,
    read_huggingface,
    readable_files,
)
from vita.data.sources.readers import Row, RowProblem
from vita.data.sources.records_from_rows import Dropped, UnusableRow, convert_rows, provenance, record_id
from vita.spine.contents import current_erasures
from vita.spine.errors import DataError


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages that the assistant is to answer."""

    id: str
    messages: tuple[Message, ...]
    source: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further inputs of a reward, such as the correct answer."""
    licence: str | None = None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The fields of the row, in which its rights are stated."""
        return self.columns


def prompts(source: Source, *, dropped: Dropped | None = None) -> Iterator[Prompt]:
    """Yield the prompts of a source in order; rows without a usable prompt go to `dropped` with the reason."""
    if source.repeat != 1:
        hint = "remove `repeat`; prompts are shuffled in each epoch"
        raise DataError(source.label(), "prompts are not repeated", hint=hint)
    row = first_row(source)
    values = row.values if row else None
    if (source.world is not None and source.part == "preferences") or (values and detect_preference(values)):
        for opinion in preferences_and_ratings(source, dropped=dropped):
            if _is_supported(opinion.variables, opinion.id, opinion.source, source, dropped):
                yield Prompt(opinion.id, opinion.prompt, opinion.source, opinion.metadata, opinion.licence)
    elif values and "prompt" in values and not dialogue_formats.detect(values):
        records = convert_rows(_rows(source), source, _prompt_of_row, dropped)
        usable = permitted_records(_without_erased(records, dropped), source.rights, dropped)
        yield from islice(usable, source.limit)
    else:
        for dialogue in dialogues(source, dropped=dropped):
            if not _is_supported(dialogue.variables, dialogue.id, dialogue.source, source, dropped):
                continue
            prompt = _prompt_of_dialogue(dialogue)
            if prompt:
                yield prompt
            elif dropped:
                dropped(
                    DroppedRecord(dialogue.id, dialogue.source, "no_prompt", "nothing comes before the last answer")
                )


_HINT = "remove it, or set `on_bad_row: drop`; the answers of prompts are sampled without tools"


def _is_supported(variables: TemplateVariables, id: str, name: str, source: Source, dropped: Dropped | None) -> bool:
    """Return False for a record with tools or other variables of the template, after it is refused or dropped."""
    field = next(iter(variables.as_row()), None)
    if field is None:
        return True
    if source.on_bad_row == "error":
        raise DataError(f"{id} from {name}", f"`{field}` is not supported in prompts", hint=_HINT)
    if dropped:
        dropped(DroppedRecord(id, name, f"unsupported_{field}", f"`{field}` is not supported in prompts"))
    return False


def unique_prompts(prompts: Iterator[Prompt]) -> list[Prompt]:
    """Return each distinct prompt once, so that held-out prompts are not used in training."""
    by_messages: dict[tuple[Message, ...], Prompt] = {}
    for prompt in prompts:
        by_messages.setdefault(prompt.messages, prompt)
    return list(by_messages.values())


def _prompt_of_dialogue(dialogue: Dialogue) -> Prompt | None:
    messages = dialogue.messages
    roles = [message.role for message in messages]
    prompt = messages[: max((index for index, role in enumerate(roles) if role == "assistant"), default=len(roles))]
    if not prompt or prompt[-1].role == "assistant":
        return None
    return Prompt(dialogue.id, prompt, dialogue.source, dialogue.metadata, dialogue.licence)


def _without_erased(prompts: Iterator[Prompt], dropped: Dropped | None) -> Iterator[Prompt]:
    """Yield the prompts that no erasure of this run covers."""
    erasures = current_erasures()
    for prompt in prompts:
        record = Dialogue(prompt.id, prompt.messages, prompt.source, prompt.licence)
        if not erasures or any(without_erased([record], erasures, dropped)):
            yield prompt


def _prompt_of_row(row: Row, source: Source) -> Prompt:
    values = row.values or {}
    try:
        check_row(values, _READS)
        field = next((name for name in TEMPLATE_FIELDS if not is_empty(values.get(name))), None)
        if field:
            raise UnsupportedField(field, "row", f"`{field}`, which is not supported in prompts", "remove it")
        messages = [*system_messages(values), *parse_text_or_messages(values, "prompt", "user")]
    except FormatMismatch as error:
        raise UnusableRow(RowProblem(error.reason, _EXPECTED, str(error), error.hint)) from None
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise UnusableRow(RowProblem("no_prompt", _EXPECTED, "`prompt` without a text of the user"))
    columns = {name: value for name, value in values.items() if name not in {*_READS, "id"}}
    name, licence, metadata = provenance(row, values, source, _READS)
    columns |= {field: metadata[field] for field in RIGHTS_FIELDS if field in metadata}
    return Prompt(record_id(row, values), tuple(messages), name, columns, licence)


_READS = frozenset({"prompt", "system"})
_EXPECTED = "`prompt` as a text, or as messages [{role, content}]"


def _rows(source: Source) -> Iterator[Row]:
    if source.path is None:
        return read_huggingface(SourceSlice(source), Dialogue)
    return read_files(SourceSlice(source, tuple(readable_files(source, Dialogue))), Dialogue)
