"""The shapes in which people keep dialogues, told apart by a row's fields, each turned into messages with roles.

A new format is one decorated function: it names the fields that give it away, and makes messages of a row.

    detect({"instruction": "Add.", "input": "1 2", "output": "3"}).name   # "alpaca"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vita.data.records import Message, Role
from vita.spine.parts import Parts

Row = Mapping[str, Any]
Messages = list[Message]


class Misfit(Exception):
    """A row that is not as its format wants it; says what is wrong."""


@dataclass(frozen=True)
class Format:
    """A shape of dialogue rows: the fields that tell it, all the fields it reads, and how a row becomes messages."""

    name: str
    needs: tuple[frozenset[str], ...]
    reads: frozenset[str]
    convert: Callable[[Row], Messages]

    def fits(self, row: Row) -> bool:
        """Whether `row` has one of each of the needed fields."""
        return all(any(name in row for name in names) for names in self.needs)

    def describe(self) -> str:
        """Its fields, for a user who has to choose."""
        return f"{self.name} ({', '.join('|'.join(sorted(names)) for names in self.needs)})"


FORMATS: Parts[Format] = Parts("dialogue_format")


def detect(row: Row) -> Format | None:
    """The format whose fields `row` has, if any; a list of messages, being one field, comes before pairs of fields."""
    fitting = [FORMATS[name] for name in FORMATS if FORMATS[name].fits(row)]
    return min(fitting, key=lambda format: len(format.needs), default=None)


def dialogue_format(name: str, *needs: str, reads: Iterable[str] = ()) -> Callable[[Callable[[Row], Messages]], Any]:
    """Enter a conversion in the table. A needed field with several names is written `output|response`."""
    fields = tuple(frozenset(field.split("|")) for field in needs)

    def enter(convert: Callable[[Row], Messages]) -> Callable[[Row], Messages]:
        FORMATS.add(name)(Format(name, fields, frozenset().union(*fields, reads), convert))
        return convert

    return enter


@dialogue_format("messages", "messages", reads=["system"])
def messages(row: Row) -> Messages:
    """`messages: [{role, content}]`, where content may also be a list of text parts."""
    return [*_system(row), *_turns(row, "messages")]


@dialogue_format("sharegpt", "conversations|conversation", reads=["system"])
def sharegpt(row: Row) -> Messages:
    """`conversations: [{from, value}]` with human, gpt, system, function_call and observation."""
    return [*_system(row), *_turns(row, _first(row, "conversations", "conversation"))]


@dialogue_format("alpaca", "instruction", "output|response", reads=["input", "context", "system", "history"])
def alpaca(row: Row) -> Messages:
    """`instruction`, perhaps `input` or `context`, `output` or `response`; earlier turns in `history` as pairs."""
    history = row.get("history") or []
    if not isinstance(history, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in history):
        raise Misfit("`history` is not a list of pairs [question, answer]")
    earlier = [
        message
        for asked, answered in history
        for message in (Message("user", _string(asked, "history")), Message("assistant", _string(answered, "history")))
    ]
    question, answer = _instruction(row), _text(row, _first(row, "output", "response"))
    return [*_system(row), *earlier, Message("user", question), Message("assistant", answer)]


@dialogue_format("prompt_completion", "prompt", "completion|response", reads=["system"])
def prompt_completion(row: Row) -> Messages:
    """`prompt` with `completion` or `response`; each a text, or messages."""
    answer = _first(row, "completion", "response")
    return [*_system(row), *_side(row, "prompt", "user"), *_side(row, answer, "assistant")]


@dialogue_format("question_answer", "question", "answer", reads=["system"])
def question_answer(row: Row) -> Messages:
    """`question` and `answer`."""
    question, answer = _text(row, "question"), _text(row, "answer")
    return [*_system(row), Message("user", question), Message("assistant", answer)]


@dialogue_format("self_instruct", "instruction", "instances", reads=["input"])
def self_instruct(row: Row) -> Messages:
    """`instruction` with one entry `{input, output}` in `instances`."""
    instances = row["instances"]
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], Mapping):
        raise Misfit("`instances` is not a list of one object {input, output}; give each instance a row of its own")
    inner = {"instruction": row["instruction"], **instances[0]}
    return [Message("user", _instruction(inner)), Message("assistant", _text(inner, "output"))]


# -- reading parts of a row

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


def _turns(row: Row, field: str) -> Messages:
    turns = row[field]
    if not isinstance(turns, (list, tuple)) or not turns:
        raise Misfit(f"`{field}` is not a list of messages")
    return [_turn(turn, f"{field}[{number}]") for number, turn in enumerate(turns)]


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise Misfit(f"`{where}` is not an object with role and content")
    name = turn.get("role", turn.get("from"))
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise Misfit(f"`{where}` has the role {name!r}; known are {', '.join(_ROLES)}")
    content = turn.get("content", turn.get("value"))
    if content is None and turn.get("tool_calls"):
        raise Misfit(f"`{where}` holds `tool_calls` instead of text; write the call as the message's text")
    return Message(role, _string(content, where))


def _string(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(_string(part.get("text", part.get("value")), where) for part in content)
    raise Misfit(f"`{where}` holds {type(content).__name__} where text was expected")


def _text(row: Row, field: str) -> str:
    if field not in row:
        raise Misfit(f"`{field}` is missing")
    return _string(row[field], field)


def _first(row: Row, *fields: str) -> str:
    return next((field for field in fields if field in row), fields[0])


def _system(row: Row) -> Messages:
    return [Message("system", _text(row, "system"))] if row.get("system") else []


def _instruction(row: Row) -> str:
    question = _text(row, "instruction")
    more = row.get("input") or row.get("context")
    return f"{question}\n\n{_string(more, 'input')}" if more else question


def _side(row: Row, field: str, role: Role) -> Messages:
    if isinstance(row.get(field), (list, tuple)):
        return _turns(row, field)
    return [Message(role, _text(row, field))]
