"""Tool dialogues in the formats of OpenAI, ShareGPT, Hermes and Glaive give the same messages and tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vita.data.records import Dialogue, Message, ToolCall
from vita.data.sources.read import Source, dialogues
from vita.spine.errors import DataError

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "It's the weather.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
ARGUMENTS = {"city": "Köln"}

EXPECTED = [
    Message("user", "Weather in Köln?"),
    Message("assistant", "", tool_calls=(ToolCall("weather", json.dumps(ARGUMENTS, ensure_ascii=False)),)),
    Message("tool", '{"t": 10}'),
    Message("assistant", "It is 10."),
]

HERMES_SYSTEM = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. "
    f"Here are the available tools:<tools> {json.dumps([TOOL])} </tools>\nFor each function call return a json object "
    "within <tool_call> </tool_call> tags:\n<tool_call>\n{tool_call}\n</tool_call>"
)
CALL = {"name": "weather", "arguments": ARGUMENTS}
CALL_AS_TEXT = {"name": "weather", "arguments": '{"city": "Köln"}'}
OPENAI = [
    {"role": "user", "content": "Weather in Köln?"},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
    {"role": "tool", "content": '{"t": 10}'},
    {"role": "assistant", "content": "It is 10."},
]  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "openai": {"messages": OPENAI, "tools": [TOOL]},
    "tools as text": {"messages": OPENAI, "tools": json.dumps([FUNCTION])},
    "arguments as text": {
        "messages": [
            OPENAI[0],
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {**CALL, "arguments": '{"city": "Köln"}'}}],
            },
            *OPENAI[2:],
        ],
        "tools": [json.dumps(TOOL)],
    },
    "function_call": {
        "messages": [
            OPENAI[0],
            {"role": "assistant", "function_call": CALL_AS_TEXT},
            {"role": "function", "content": '{"t": 10}'},
            OPENAI[3],
        ],
        "functions": [FUNCTION],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Weather in Köln?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": '{"t": 10}'},
            {"from": "gpt", "value": "It is 10."},
        ],
        "tools": json.dumps([FUNCTION]),
    },
    "hermes": {
        "conversations": [
            {"from": "system", "value": HERMES_SYSTEM},
            {"from": "human", "value": "Weather in Köln?"},
            {"from": "gpt", "value": f"<tool_call>\n{CALL}\n</tool_call>"},
            {"from": "tool", "value": '<tool_response>\n{"t": 10}\n</tool_response>'},
            {"from": "gpt", "value": "It is 10."},
        ]
    },
    "glaive": {
        "system": "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
        + json.dumps(FUNCTION, indent=4),
        "chat": 'USER: Weather in Köln?\n\n\nASSISTANT: <functioncall> {"name": "weather", "arguments": \'{"city": '
        '"Köln"}\'} <|endoftext|>\n\n\nFUNCTION RESPONSE: {"t": 10}\n\n\nASSISTANT: It is 10. <|endoftext|>\n\n\n',
    },
}


def read_row(folder: Path, row: dict[str, Any], **options: Any) -> list[Dialogue]:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    return list(dialogues(Source.model_validate({"path": str(path), **options})))


@pytest.mark.parametrize("name", ROWS)
def test_each_format_of_tool_dialogues_is_converted_to_messages_and_tools(tmp_path: Path, name: str) -> None:
    (dialogue,) = read_row(tmp_path, ROWS[name])
    assert list(dialogue.messages) == EXPECTED
    assert list(dialogue.variables.tools) == [TOOL]


def test_reasoning_names_ids_and_template_variables_are_read(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "4", "thinking": "Two and two.", "weight": 0}
    result = {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "add"}
    rows = [{"role": "user", "content": "2+2?"}, answer, result, {"role": "assistant", "content": "4"}]
    row = {"messages": rows, "chat_template_kwargs": '{"enable_thinking": false}', "documents": [{"text": "d"}]}
    (dialogue,) = read_row(tmp_path, row)
    assert dialogue.messages[1] == Message("assistant", "4", learned=False, reasoning="Two and two.")
    assert dialogue.messages[2] == Message("tool", "4", tool_call_id="c1", name="add")
    assert dialogue.variables.settings == {"enable_thinking": False}
    assert dialogue.variables.documents == ({"text": "d"},)
    assert dialogue.metadata == {}
    assert [message.as_row() for message in dialogue.messages][1]["reasoning_content"] == "Two and two."


def test_several_calls_and_results_of_a_turn_are_read(tmp_path: Path) -> None:
    calls = "\n".join(f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>" for _ in range(2))
    results = "<tool_response>1</tool_response><tool_response>2</tool_response>"
    turns = [
        {"from": "human", "value": "a"}, {"from": "gpt", "value": f"I look.\n{calls}"},
        {"from": "tool", "value": results}, {"from": "gpt", "value": "b"},
    ]  # fmt: skip
    (dialogue,) = read_row(tmp_path, {"conversations": turns, "tools": [TOOL]})
    assert dialogue.messages[1].content == "I look." and len(dialogue.messages[1].tool_calls) == 2
    assert [message.content for message in dialogue.messages if message.role == "tool"] == ["1", "2"]
    (plain,) = read_row(tmp_path, {"conversations": turns})
    assert calls in plain.messages[1].content  # without tools the calls are text


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("[1]", r"`messages\[1\].tool_calls\[0\]` is not an object with a function"),
        ([{"function": {"name": "f", "arguments": "{"}}], r"tool_calls\[0\].arguments` is not JSON"),
        ([{"function": {"name": "f", "arguments": "[1]"}}], r"tool_calls\[0\].arguments` holds an array"),
        ([{"function": {"name": "f", "arguments": '{"a": NaN}'}}], "NaN is not a JSON value"),
        ([{"function": {"arguments": "{}"}}], "has no function with a name"),
    ],
)
def test_an_invalid_call_is_refused_with_its_row(tmp_path: Path, call: Any, problem: str) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": call}]}
    with pytest.raises(DataError, match=rf"rows.jsonl, row 1: .*{problem}"):
        read_row(tmp_path, row)
