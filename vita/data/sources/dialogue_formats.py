"""The shapes in which people keep dialogues, told apart by a row's fields, each turned into messages with roles.

A new format is one decorated function: it names the fields that give it away, and makes messages of a row.

    detect({"instruction": "Add.", "input": "1 2", "output": "3"}).name   # "alpaca"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vita.data.records import Message
from vita.data.sources.fields import Misfit, UnsupportedField, check_row, is_empty
from vita.data.sources.messages import Messages, Row, first, instruction, side, string, system, text, turns
from vita.spine.parts import Parts

T = TypeVar("T")


@dataclass(frozen=True)
class Format(Generic[T]):
    """A shape of rows: the fields that tell it, all the fields it reads, and what becomes of a row."""

    name: str
    needs: tuple[frozenset[str], ...]
    reads: frozenset[str]
    convert: Callable[[Row], T]

    def fits(self, row: Row) -> bool:
        """Whether `row` has one of each of the needed fields."""
        return all(any(name in row for name in names) for names in self.needs)

    def read(self, row: Row) -> T:
        """What the row says; a field that the format does not know and that matters is refused."""
        check_row(row, self.reads, alternatives=(*self.needs, INPUTS & self.reads))
        return self.convert(row)

    def describe(self) -> str:
        """Its fields, for a user who has to choose."""
        return f"{self.name} ({', '.join('|'.join(sorted(names)) for names in self.needs)})"


INPUTS = frozenset({"input", "context"})
"""Two names of what an instruction is about."""

FORMATS: Parts[Format[Messages]] = Parts("dialogue_format")


def detect(row: Row) -> Format[Messages] | None:
    """The format whose fields `row` has, if any; a list of messages, being one field, comes before pairs of fields.

    Formats whose fields hold a value come before those whose fields are null or empty.
    """
    fitting = [FORMATS[name] for name in FORMATS if FORMATS[name].fits(row)]
    return min(fitting, key=lambda format: (not _has_values(format, row), len(format.needs)), default=None)


def check_single_dialogue(row: Row, format: Format[Messages], dialogue: Messages) -> None:
    """Refuse a row that holds another dialogue too, in the fields of another format with as many needed fields."""
    for name in FORMATS:
        other = FORMATS[name]
        if other is format or len(other.needs) != len(format.needs) or not _has_values(other, row):
            continue
        columns = [_value_name(row, names) for names in other.needs]
        try:
            same = other.convert(row) == dialogue
        except Misfit:  # a text under such a name describes the row; a list is a dialogue that cannot be read
            same = not any(isinstance(row[column], (list, tuple)) for column in columns)
        if not same:
            chosen = [_value_name(row, names) for names in format.needs]
            raise Misfit(
                f"{_quoted(chosen)} and {_quoted(columns)}, which hold different dialogues",
                reason="ambiguous",
                hint="remove the columns that are not to be learned, or set `on_bad_row: drop`",
            )


def _has_values(format: Format[Any], row: Row) -> bool:
    return all(any(not is_empty(row.get(name)) for name in names) for names in format.needs)


def _value_name(row: Row, names: Iterable[str]) -> str:
    """The first of the alternative names whose field holds a value."""
    return next((name for name in sorted(names) if not is_empty(row.get(name))), min(names))


def _quoted(names: Iterable[str]) -> str:
    return " with ".join(f"`{name}`" for name in names)


def dialogue_format(name: str, *needs: str, reads: Iterable[str] = ()) -> Callable[[Callable[[Row], Messages]], Any]:
    """Enter a conversion in the table. A needed field with several names is written `output|response`."""
    return entered(FORMATS, name, needs, reads)


def entered(
    table: Parts[Format[T]], name: str, needs: Iterable[str], reads: Iterable[str]
) -> Callable[[Callable[[Row], T]], Callable[[Row], T]]:
    """Decorator: enter a conversion in a table of formats."""
    fields = tuple(frozenset(field.split("|")) for field in needs)

    def enter(convert: Callable[[Row], T]) -> Callable[[Row], T]:
        table.add(name)(Format(name, fields, frozenset().union(*fields, reads), convert))
        return convert

    return enter


@dialogue_format("messages", "messages", reads=["system"])
def messages(row: Row) -> Messages:
    """`messages: [{role, content}]`, where content may also be a list of text parts."""
    return [*system(row), *turns(row, "messages")]


@dialogue_format("sharegpt", "conversations|conversation", reads=["system"])
def sharegpt(row: Row) -> Messages:
    """`conversations: [{from, value}]` with human, gpt, system, function_call and observation."""
    return [*system(row), *turns(row, first(row, "conversations", "conversation"))]


@dialogue_format("alpaca", "instruction", "output|response", reads=["input", "context", "system", "history"])
def alpaca(row: Row) -> Messages:
    """`instruction`, perhaps `input` or `context`, `output` or `response`; earlier turns in `history` as pairs."""
    history = row.get("history") or []
    if not isinstance(history, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in history):
        raise Misfit("`history` is not a list of pairs [question, answer]")
    earlier = [
        message
        for asked, answered in history
        for message in (Message("user", string(asked, "history")), Message("assistant", string(answered, "history")))
    ]
    question, answer = instruction(row), text(row, first(row, "output", "response"))
    return [*system(row), *earlier, Message("user", question), Message("assistant", answer)]


@dialogue_format("prompt_completion", "prompt", "completion|response", reads=["system"])
def prompt_completion(row: Row) -> Messages:
    """`prompt` with `completion` or `response`; each a text, or messages."""
    answer = first(row, "completion", "response")
    return [*system(row), *side(row, "prompt", "user"), *side(row, answer, "assistant")]


@dialogue_format("question_answer", "question", "answer", reads=["system"])
def question_answer(row: Row) -> Messages:
    """`question` and `answer`."""
    question, answer = text(row, "question"), text(row, "answer")
    return [*system(row), Message("user", question), Message("assistant", answer)]


@dialogue_format("self_instruct", "instruction", "instances", reads=["input"])
def self_instruct(row: Row) -> Messages:
    """`instruction` with one entry `{input, output}` in `instances`."""
    instances = row["instances"]
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], Mapping):
        raise Misfit("`instances` is not a list of one object {input, output}; give each instance a row of its own")
    for name, value in instances[0].items():
        if name not in ("input", "output") and not is_empty(value):
            raise UnsupportedField(name, "instances[0]", f"`instances[0].{name}`, which is not read", "remove it")
    inner = {"instruction": row["instruction"], **instances[0]}
    return [Message("user", instruction(inner)), Message("assistant", text(inner, "output"))]
