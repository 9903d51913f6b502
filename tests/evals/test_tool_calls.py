"""Tool call evaluation: valid and correct calls by schema and by expected calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.tool_model import DIALOGUES, TOOLS, call, memorizing_model
from vita.cli import main
from vita.data.records import Message, ToolCall
from vita.data.sources.read import Source
from vita.evals.eval_files import ToolCallFile
from vita.evals.tool_calls import ToolCallItem, figures, is_valid, judge, read
from vita.infer.answer_formats.answer_format import ParsedAnswer

QUESTION = (Message("user", "Weather in Köln?"),)


def judge_calls(*calls: ToolCall, expected: tuple[ToolCall, ...] = (call("Köln"),)) -> tuple[bool, bool, bool]:
    result = judge(ToolCallItem("1", QUESTION, TOOLS, expected), ParsedAnswer("", calls=calls))
    return result.valid, result.correct_function, result.exact_match


def test_a_call_is_judged_by_schema_function_and_arguments() -> None:
    assert judge_calls(call("Köln")) == (True, True, True)
    assert judge_calls(ToolCall("weather", '{ "city":"Köln" }')) == (True, True, True)
    assert judge_calls(call("Bern")) == (True, True, False)
    assert judge_calls(ToolCall("weather", '{"city": 1}')) == (False, True, False)
    assert judge_calls(ToolCall("weather", "{}")) == (False, True, False)
    assert judge_calls(ToolCall("time", "{}")) == (False, False, False)
    assert judge_calls() == (False, False, False)
    calls = (call("Köln"), call("Bern"))
    assert judge_calls(*calls[::-1], expected=calls) == (True, True, True)
    assert judge_calls(call("Köln"), expected=calls) == (True, False, False)


def test_invalid_and_remote_schemas_allow_every_object() -> None:
    for parameters in ({"type": "float"}, {"$ref": "http://127.0.0.1:9/schema"}, None):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        assert is_valid(ToolCall("f", '{"a": 1}'), [tool])


def test_shares_are_counted_over_items_with_and_without_calls() -> None:
    call_item = ToolCallItem("1", QUESTION, TOOLS, (call("Köln"),))
    text_item = ToolCallItem("2", QUESTION, TOOLS, ())
    results = [
        judge(call_item, ParsedAnswer("", calls=(call("Köln"),))),
        judge(call_item, ParsedAnswer("It rains.")),
        judge(text_item, ParsedAnswer("Hello.")),
    ]
    shares = figures(results)
    assert {name: interval.value for name, interval in shares.items()} == {
        "valid_call": 0.5, "correct_function": 0.5, "exact_match": 0.5, "unneeded_call": 0.0, "unanswered": 0.0,
    }  # fmt: skip


def test_every_answer_of_a_dialogue_with_tools_is_an_item(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    items = read(Source.model_validate(str(path)))
    assert [len(item.prompt) for item in items] == [1, 3, 1]
    assert [len(item.expected) for item in items] == [1, 0, 2]


def write_rows(path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"messages": [message.as_row() for message in messages], **variables.as_row()}
        for messages, variables in DIALOGUES
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_stage_reports_the_calls_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))

    def vita(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_error:
            main([*arguments])
        output = capsys.readouterr()
        return int(exit_error.value.code or 0), output.out + output.err

    model, rows = str(memorizing_model(tmp_path / "m")), write_rows(tmp_path / "rows.jsonl")
    settings = ("--set", f"tool_calls={{path: {rows}, max_tokens: 80}}", "--set", "prompts=[]")
    code, output = vita("test", model, *settings, "--name", "t")
    assert code == 0, output
    facts = json.loads(vita("show", "t/test", "--json")[1])["facts"]
    assert [facts[f"tool_calls/{name}"] for name in ("valid_call", "correct_function", "exact_match")] == [1, 1, 1]
    assert facts["tool_calls/unneeded_call"] == 0
    code, output = vita("test", model, "--set", "tool_calls=nothing.jsonl", "--name", "u")
    assert code != 0 and "nothing.jsonl" in output and "Traceback" not in output


def test_world_conversations_with_tool_calls_are_items() -> None:
    world = {"seed": 1, "things": 40, "documents": 20, "dialogues": 200, "conversations": {"lookup": 1}}
    file = ToolCallFile.model_validate({"world": world})
    items = read(file.source)
    call_items = [item for item in items if item.expected]
    assert call_items and {call.name for item in call_items for call in item.expected} == {"lookup"}
    assert all(item.variables.tools for item in items)
    with pytest.raises(ValueError, match="set `path` or `world`"):
        ToolCallFile.model_validate({"path": "x.jsonl", "world": world})
