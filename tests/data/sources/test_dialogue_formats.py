"""Each dialogue format is detected by its fields and converted to the same messages."""

from __future__ import annotations

from typing import Any

import pytest

from vita.data.records import ROLES
from vita.data.sources.dialogue_formats import FORMATS, FormatMismatch, detect

QUESTION, ANSWER = {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}

ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [
        {"messages": [QUESTION, ANSWER]},
        {"messages": [QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "2"}]}]},
        {"messages": [QUESTION, {"role": "assistant", "content": [{"type": "text", "value": "2"}]}], "prompt": "Two?"},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "Two?"}, {"from": "gpt", "value": "2"}]},
        {"conversation": [QUESTION, ANSWER]},
    ],
    "alpaca": [
        {"instruction": "Two?", "input": "", "output": "2"},
        {"instruction": "Two?", "response": "2", "context": ""},
    ],
    "prompt_completion": [
        {"prompt": "Two?", "completion": "2"},
        {"prompt": "Two?", "response": "2"},
        {"prompt": [QUESTION], "completion": [ANSWER]},
    ],
    "question_answer": [{"question": "Two?", "answer": "2", "level": 3}],
    "glaive": [
        {"system": "SYSTEM: ", "chat": "USER: Two?\n\n\nASSISTANT: 2 <|endoftext|>\n\n\n"},
        {"sample": "USER: Two? ASSISTANT: 2 <|endoftext|>"},
    ],
    "self_instruct": [{"instruction": "Two?", "instances": [{"input": "", "output": "2"}]}],
}


def turns_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    dialogue_format = detect(row)
    assert dialogue_format is not None
    return [(message.role, message.content) for message in dialogue_format.convert(row)]


def test_every_format_is_tested() -> None:
    assert sorted(ROWS) == FORMATS.names()


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in ROWS.items() for row in rows])
def test_each_format_is_detected_and_converted(name: str, row: dict[str, Any]) -> None:
    dialogue_format = detect(row)
    assert dialogue_format is not None and dialogue_format.name == name
    assert turns_of(row) == [("user", "Two?"), ("assistant", "2")]


def test_an_input_follows_its_instruction_after_a_blank_line() -> None:
    assert turns_of({"instruction": "Add.", "input": "1 2", "output": "3"})[0] == ("user", "Add.\n\n1 2")


def test_system_message_and_history_are_first() -> None:
    row = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    assert turns_of(row) == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]


def test_tool_calls_and_results_have_their_roles() -> None:
    turns = [("human", "a"), ("function_call", '{"name": "f"}'), ("observation", "1"), ("gpt", "b")]
    row = {"conversations": [{"from": name, "value": text} for name, text in turns]}
    assert [role for role, _ in turns_of(row)] == ["user", "assistant", "tool", "assistant"]
    assert {role for role, _ in turns_of(row)} <= set(ROLES)


def test_plain_text_is_not_a_dialogue() -> None:
    assert detect({"text": "a"}) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "`messages` is not a list of messages"),
        ({"messages": ["hello"]}, r"`messages\[0\]` is not an object"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "has the role 'wizard'; known are"),
        ({"messages": [{"role": "user", "content": 3}]}, "holds a number where text was expected"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
            r"`messages\[0\].tool_calls\[0\]` has no function with a name",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            "a part of the type 'image'",
        ),
        ({"instruction": "a", "output": None}, "`output` holds null"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "pairs"),
        ({"instruction": "a", "instances": [{"output": "1"}, {"output": "2"}]}, "give each instance a row"),
    ],
)
def test_an_invalid_row_is_refused_with_the_field(row: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatMismatch, match=message):
        turns_of(row)
