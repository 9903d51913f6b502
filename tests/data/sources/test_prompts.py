"""Prompts come from dialogues, preferences and rows of their own, without any answer, and with what a reward needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vita.data.records import Message
from vita.data.sources.prompts import Prompt, prompts, unique_prompts
from vita.data.sources.read import Source
from vita.data.world import WorldSettings
from vita.spine.errors import DataError


def read(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> list[Prompt]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(prompts(Source.model_validate({"path": str(path), **settings})))


def test_rows_with_a_prompt_hand_their_other_columns_to_the_reward(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2 + 2 =", "answer": 4, "id": "a"},
        {"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1"}], "answer": 2},
    ]
    first, second = read(tmp_path, rows)
    assert first == Prompt("a", (Message("user", "2 + 2 ="),), str(tmp_path / "rows.jsonl"), {"answer": 4})
    assert [one.role for one in second.messages] == ["system", "user"] and second.columns == {"answer": 2}


def test_of_a_dialogue_it_is_all_before_the_last_answer(tmp_path: Path) -> None:
    turns = [("user", "Hi."), ("assistant", "Hello."), ("user", "A cat?"), ("assistant", "Furry.")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns], "ground_truth": "furry"}
    (found,) = read(tmp_path, [row])
    assert [one.content for one in found.messages] == ["Hi.", "Hello.", "A cat?"]
    assert found.columns == {"ground_truth": "furry"}


def test_of_a_preference_it_is_the_prompt(tmp_path: Path) -> None:
    (found,) = read(tmp_path, [{"prompt": "Hi.", "chosen": "Good day!", "rejected": "What?"}])
    assert [one.content for one in found.messages] == ["Hi."]


def test_the_world_asks_too() -> None:
    world = WorldSettings(things=20, dialogues=50)
    asked = list(prompts(Source(world=world)))
    assert asked and all(one.messages[-1].role == "user" for one in asked)
    sums = list(prompts(Source(world=world, part="sums", limit=5)))
    assert len(sums) == 5 and all(isinstance(one.columns["answer"], int) for one in sums)
    assert next(prompts(Source(world=world, part="preferences"))).messages[-1].role == "user"


def test_the_same_question_is_one_prompt(tmp_path: Path) -> None:
    found = unique_prompts(iter(read(tmp_path, [{"prompt": "a", "n": 1}, {"prompt": "b"}, {"prompt": "a", "n": 2}])))
    assert [(one.messages[0].content, one.columns.get("n")) for one in found] == [("a", 1), ("b", None)]


def test_a_prompt_that_is_none_stops_the_run_or_is_dropped(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": 3}]
    with pytest.raises(DataError, match=r"rows.jsonl, row 2: expected `prompt` as a text, or as messages"):
        read(tmp_path, rows)
    assert len(read(tmp_path, rows, on_bad_row="drop")) == 1


def test_of_an_answer_with_a_verdict_it_is_the_prompt(tmp_path: Path) -> None:
    (found,) = read(tmp_path, [{"prompt": "Hi.", "completion": "Good day!", "label": True}])
    assert [one.content for one in found.messages] == ["Hi."]


def test_prompts_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prompts are not repeated; remove `repeat`"):
        read(tmp_path, [{"prompt": "a"}], repeat=2)
