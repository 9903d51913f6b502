"""Dialogue formats, detected by the fields of a row and converted to messages with roles.

A new format is one decorated function: the decorator names the required fields, the function converts a row.

    detect({"instruction": "Add.", "input": "1 2", "output": "3"}).name   # "alpaca"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from vita.data.records import Message, TemplateVariables
from vita.data.sources.fields import FormatMismatch, UnsupportedField, check_row, is_empty
from vita.data.sources.messages import (
    Messages,
    Row,
    first_field,
    instruction_text,
    parse_field,
    parse_messages,
    parse_text,
    parse_text_or_messages,
    system_messages,
)
from vita.data.sources.tool_fields import parse_variables
from vita.data.sources.tool_text import glaive_dialogue, glaive_system
from vita.spine.registry import Registry

T = TypeVar("T")


@dataclass(frozen=True)
class RowFormat(Generic[T]):
    """A row format: its required fields, all the fields that it reads, and the conversion of a row."""

    name: str
    needs: tuple[frozenset[str], ...]
    reads: frozenset[str]
    convert: Callable[[Row], T]
    variables: Callable[[Row], TemplateVariables] = parse_variables
    """The conversion of the fields that the chat template reads, such as `tools`."""

    def fits(self, row: Row) -> bool:
        """Return True if `row` has at least one field of each required group."""
        return all(any(name in row for name in names) for names in self.needs)

    def read(self, row: Row) -> T:
        """Convert a row; unknown fields that would change the result are refused."""
        check_row(row, self.reads, alternatives=(*self.needs, INPUTS & self.reads))
        return self.convert(row)

    def describe(self) -> str:
        """Return the name with the required fields, for messages."""
        return f"{self.name} ({', '.join('|'.join(sorted(names)) for names in self.needs)})"


INPUTS = frozenset({"input", "context"})
"""Two names of the input of an instruction."""

FORMATS: Registry[RowFormat[Messages]] = Registry("dialogue_format")


def detect(row: Row) -> RowFormat[Messages] | None:
    """Return the format whose required fields `row` has, or None.

    Formats whose fields have values are preferred to those whose fields are null or empty, then formats with fewer
    required fields: a list of messages, one field, is preferred to pairs of fields.
    """
    fitting = [FORMATS[name] for name in FORMATS if FORMATS[name].fits(row)]
    return min(fitting, key=lambda format: (not _has_values(format, row), len(format.needs)), default=None)


def check_single_dialogue(row: Row, format: RowFormat[Messages], dialogue: Messages) -> None:
    """Refuse a row with a second dialogue in the fields of another format with as many required fields."""
    for name in FORMATS:
        other = FORMATS[name]
        if other is format or len(other.needs) != len(format.needs) or not _has_values(other, row):
            continue
        columns = [_value_name(row, names) for names in other.needs]
        try:
            is_equal = other.convert(row) == dialogue
        except FormatMismatch:  # a text in such a field is metadata; a list is a dialogue that cannot be read
            is_equal = not any(isinstance(row[column], (list, tuple)) for column in columns)
        if not is_equal:
            format_columns = [_value_name(row, names) for names in format.needs]
            raise FormatMismatch(
                f"{_quoted(format_columns)} and {_quoted(columns)}, which hold different dialogues",
                reason="ambiguous",
                hint="remove the columns that must not be learned, or set `on_bad_row: drop`",
            )


def _has_values(format: RowFormat[Any], row: Row) -> bool:
    return all(any(not is_empty(row.get(name)) for name in names) for names in format.needs)


def _value_name(row: Row, names: Iterable[str]) -> str:
    """Return the first of the alternative names whose field has a value."""
    return next((name for name in sorted(names) if not is_empty(row.get(name))), min(names))


def _quoted(names: Iterable[str]) -> str:
    return " with ".join(f"`{name}`" for name in names)


def dialogue_format(
    name: str, *needs: str, reads: Iterable[str] = (), variables: Callable[[Row], TemplateVariables] = parse_variables
) -> Callable[[Callable[[Row], Messages]], Any]:
    """Register a conversion. A required field with alternative names is written `output|response`."""
    return register_format(FORMATS, name, needs, reads, variables=variables)


def register_format(
    table: Registry[RowFormat[T]],
    name: str,
    needs: Iterable[str],
    reads: Iterable[str],
    *,
    variables: Callable[[Row], TemplateVariables] = parse_variables,
) -> Callable[[Callable[[Row], T]], Callable[[Row], T]]:
    """Return a decorator that registers a conversion in a table of formats."""
    fields = tuple(frozenset(field.split("|")) for field in needs)

    def enter(convert: Callable[[Row], T]) -> Callable[[Row], T]:
        table.add(name)(RowFormat(name, fields, frozenset().union(*fields, reads), convert, variables))
        return convert

    return enter


@dialogue_format("messages", "messages", reads=["system"])
def messages(row: Row) -> Messages:
    """Convert `messages: [{role, content}]`, where content may also be a list of text parts.

    An assistant's message may have `tool_calls` and `reasoning_content`; a tool message is the result of a call.
    """
    return [*system_messages(row), *parse_messages(row, "messages")]


@dialogue_format("sharegpt", "conversations|conversation", reads=["system"])
def sharegpt(row: Row) -> Messages:
    """Convert `conversations: [{from, value}]` with human, gpt, system, function_call and observation.

    The value of function_call is the JSON of a call `{name, arguments}`, or of several calls.
    """
    return [*system_messages(row), *parse_messages(row, first_field(row, "conversations", "conversation"))]


@dialogue_format("alpaca", "instruction", "output|response", reads=["input", "context", "system", "history"])
def alpaca(row: Row) -> Messages:
    """Convert `instruction`, optional `input` or `context`, `output` or `response`, and pairs of turns in `history`."""
    history = row.get("history") or []
    if not isinstance(history, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history
    ):
        raise FormatMismatch("`history` is not a list of pairs [question, answer]")
    earlier_messages = [
        message
        for earlier_question, earlier_answer in history
        for message in (
            Message("user", parse_text(earlier_question, "history")),
            Message("assistant", parse_text(earlier_answer, "history")),
        )
    ]
    question, answer = instruction_text(row), parse_field(row, first_field(row, "output", "response"))
    return [*system_messages(row), *earlier_messages, Message("user", question), Message("assistant", answer)]


def _glaive_variables(row: Row) -> TemplateVariables:
    """Return the functions in the system message of a Glaive row."""
    variables = parse_variables(row)
    if variables.tools:
        return variables
    tools = [tool for text in _glaive_systems(row) for tool in glaive_system(text)[1]]
    return replace(variables, tools=tuple(tools))


def _glaive_systems(row: Row) -> list[str]:
    """Return the texts of the system messages of a Glaive row."""
    chat = glaive_dialogue(parse_field(row, first_field(row, "chat", "sample")))
    systems = [message.content for message in chat if message.role == "system"]
    return [parse_field(row, "system"), *systems] if row.get("system") else systems


@dialogue_format("glaive", "chat|sample", reads=["system"], variables=_glaive_variables)
def glaive(row: Row) -> Messages:
    """Convert `chat` or `sample`: a text with USER:, ASSISTANT: and FUNCTION RESPONSE:, and functions in `system`."""
    chat = glaive_dialogue(parse_field(row, first_field(row, "chat", "sample")))
    texts = [glaive_system(text)[0] for text in _glaive_systems(row)]
    opening = [Message("system", text) for text in texts if text]
    return [*opening, *(message for message in chat if message.role != "system")]


@dialogue_format("prompt_completion", "prompt", "completion|response", reads=["system"])
def prompt_completion(row: Row) -> Messages:
    """Convert `prompt` with `completion` or `response`; each a text or messages."""
    answer = first_field(row, "completion", "response")
    return [
        *system_messages(row),
        *parse_text_or_messages(row, "prompt", "user"),
        *parse_text_or_messages(row, answer, "assistant"),
    ]


@dialogue_format("question_answer", "question", "answer", reads=["system"])
def question_answer(row: Row) -> Messages:
    """Convert `question` and `answer`."""
    question, answer = parse_field(row, "question"), parse_field(row, "answer")
    return [*system_messages(row), Message("user", question), Message("assistant", answer)]


@dialogue_format("self_instruct", "instruction", "instances", reads=["input"])
def self_instruct(row: Row) -> Messages:
    """Convert `instruction` with one entry `{input, output}` in `instances`."""
    instances = row["instances"]
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], Mapping):
        raise FormatMismatch(
            "`instances` is not a list of one object {input, output}; give each instance a row of its own"
        )
    for name, value in instances[0].items():
        if name not in ("input", "output") and not is_empty(value):
            raise UnsupportedField(name, "instances[0]", f"`instances[0].{name}`, which is not read", "remove it")
    inner = {"instruction": row["instruction"], **instances[0]}
    return [Message("user", instruction_text(inner)), Message("assistant", parse_field(inner, "output"))]
