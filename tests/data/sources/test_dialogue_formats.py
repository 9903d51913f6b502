"""Every usual shape of dialogue is told by its fields and becomes the same messages."""

from __future__ import annotations

from typing import Any

import pytest

from vita.data.records import ROLES
from vita.data.sources.dialogue_formats import FORMATS, FormatMismatch, detect

ASKED, ANSWERED = {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}

ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [
        {"messages": [ASKED, ANSWERED]},
        {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "2"}]}]},
        {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text", "value": "2"}]}], "prompt": "Two?"},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "Two?"}, {"from": "gpt", "value": "2"}]},
        {"conversation": [ASKED, ANSWERED]},
    ],
    "alpaca": [
        {"instruction": "Two?", "input": "", "output": "2"},
        {"instruction": "Two?", "response": "2", "context": ""},
    ],
    "prompt_completion": [
        {"prompt": "Two?", "completion": "2"},
        {"prompt": "Two?", "response": "2"},
        {"prompt": [ASKED], "completion": [ANSWERED]},
    ],
    "question_answer": [{"question": "Two?", "answer": "2", "level": 3}],
    "glaive": [
        {"system": "SYSTEM: ", "chat": "USER: Two?\n\n\nASSISTANT: 2 <|endoftext|>\n\n\n"},
        {"sample": "USER: Two? ASSISTANT: 2 <|endoftext|>"},
    ],
    "self_instruct": [{"instruction": "Two?", "instances": [{"input": "", "output": "2"}]}],
}


def said(row: dict[str, Any]) -> list[tuple[str, str]]:
    found = detect(row)
    assert found is not None
    return [(message.role, message.content) for message in found.convert(row)]


def test_every_format_is_tried_here() -> None:
    assert sorted(ROWS) == FORMATS.names()


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in ROWS.items() for row in rows])
def test_each_shape_is_told_and_becomes_the_same_messages(name: str, row: dict[str, Any]) -> None:
    found = detect(row)
    assert found is not None and found.name == name
    assert said(row) == [("user", "Two?"), ("assistant", "2")]


def test_an_input_follows_its_instruction_after_a_blank_line() -> None:
    assert said({"instruction": "Add.", "input": "1 2", "output": "3"})[0] == ("user", "Add.\n\n1 2")


def test_system_and_history_come_first() -> None:
    row = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    assert said(row) == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]


def test_tool_calls_and_results_have_their_roles() -> None:
    turns = [("human", "a"), ("function_call", '{"name": "f"}'), ("observation", "1"), ("gpt", "b")]
    row = {"conversations": [{"from": name, "value": text} for name, text in turns]}
    assert [role for role, _ in said(row)] == ["user", "assistant", "tool", "assistant"]
    assert {role for role, _ in said(row)} <= set(ROLES)


def test_plain_text_is_no_dialogue() -> None:
    assert detect({"text": "a"}) is None


@pytest.mark.parametrize(
    ("row", "told"),
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
def test_what_does_not_fit_says_where(row: dict[str, Any], told: str) -> None:
    with pytest.raises(FormatMismatch, match=told):
        said(row)
