"""Prompts from dialogues, preferences and prompt rows, without answers and with the columns for rewards."""

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


def read_prompts(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> list[Prompt]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(prompts(Source.model_validate({"path": str(path), **settings})))


def test_other_columns_of_prompt_rows_are_passed_to_rewards(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2 + 2 =", "answer": 4, "id": "a"},
        {"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1"}], "answer": 2},
    ]
    first, second = read_prompts(tmp_path, rows)
    assert first == Prompt("a", (Message("user", "2 + 2 ="),), "rows", {"answer": 4})
    assert [message.role for message in second.messages] == ["system", "user"] and second.columns == {"answer": 2}


def test_the_prompt_of_a_dialogue_ends_before_its_last_answer(tmp_path: Path) -> None:
    turns = [("user", "Hi."), ("assistant", "Hello."), ("user", "A cat?"), ("assistant", "Furry.")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns], "ground_truth": "furry"}
    (prompt,) = read_prompts(tmp_path, [row])
    assert [message.content for message in prompt.messages] == ["Hi.", "Hello.", "A cat?"]
    assert prompt.columns == {"ground_truth": "furry"}


def test_the_prompt_of_a_preference_is_read(tmp_path: Path) -> None:
    (prompt,) = read_prompts(tmp_path, [{"prompt": "Hi.", "chosen": "Good day!", "rejected": "What?"}])
    assert [message.content for message in prompt.messages] == ["Hi."]


def test_the_built_in_world_gives_prompts() -> None:
    world = WorldSettings(things=20, dialogues=50)
    world_prompts = list(prompts(Source(world=world)))
    assert world_prompts and all(prompt.messages[-1].role == "user" for prompt in world_prompts)
    sums = list(prompts(Source(world=world, part="sums", limit=5)))
    assert len(sums) == 5 and all(isinstance(prompt.columns["answer"], int) for prompt in sums)
    assert next(prompts(Source(world=world, part="preferences"))).messages[-1].role == "user"


def test_equal_prompts_are_merged(tmp_path: Path) -> None:
    merged = unique_prompts(
        iter(read_prompts(tmp_path, [{"prompt": "a", "n": 1}, {"prompt": "b"}, {"prompt": "a", "n": 2}]))
    )
    assert [(prompt.messages[0].content, prompt.columns.get("n")) for prompt in merged] == [("a", 1), ("b", None)]


def test_an_invalid_prompt_is_refused_or_dropped(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": 3}]
    with pytest.raises(DataError, match=r"rows.jsonl, row 2: expected `prompt` as a text, or as messages"):
        read_prompts(tmp_path, rows)
    assert len(read_prompts(tmp_path, rows, on_bad_row="drop")) == 1


def test_the_prompt_of_a_labelled_answer_is_read(tmp_path: Path) -> None:
    (prompt,) = read_prompts(tmp_path, [{"prompt": "Hi.", "completion": "Good day!", "label": True}])
    assert [message.content for message in prompt.messages] == ["Hi."]


def test_prompts_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prompts are not repeated; remove `repeat`"):
        read_prompts(tmp_path, [{"prompt": "a"}], repeat=2)
