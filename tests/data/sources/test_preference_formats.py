"""Common formats of preferences and labelled answers are read as the same records."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vita.data.records import DroppedRecord, Message, Preference
from vita.data.sources.read import Source, dialogues, documents, preferences, ratings
from vita.data.world import WorldSettings
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError

QUESTION, GOOD, BAD = Message("user", "Hi?"), Message("assistant", "Good day!"), Message("assistant", "What?")
HH = "\n\nHuman: Hi?\n\nAssistant: {}"
USER = {"role": "user", "content": "Hi?"}

PAIRS: list[dict[str, Any]] = [
    {"prompt": "Hi?", "chosen": "Good day!", "rejected": "What?"},
    {
        "prompt": [USER],
        "chosen": [{"role": "assistant", "content": "Good day!"}],
        "rejected": [{"role": "assistant", "content": "What?"}],
    },
    {  # the answers contain the prompt as well, as in UltraFeedback
        "prompt": "Hi?",
        "chosen": [USER, {"role": "assistant", "content": "Good day!"}],
        "rejected": [USER, {"role": "assistant", "content": "What?"}],
    },
    {
        "chosen": [USER, {"role": "assistant", "content": "Good day!"}],
        "rejected": [USER, {"role": "assistant", "content": "What?"}],
    },
    {"chosen": HH.format("Good day!"), "rejected": HH.format("What?")},
    {"prompt": HH.format(""), "chosen": "Good day!", "rejected": "What?"},
    {
        "conversations": [{"from": "human", "value": "Hi?"}],
        "chosen": {"from": "gpt", "value": "Good day!"},
        "rejected": {"from": "gpt", "value": "What?"},
    },
    {"instruction": "Hi?", "input": "", "output": "unused", "chosen": "Good day!", "rejected": "What?"},
    {"question": "Hi?", "chosen": "Good day!", "rejected": "What?"},
    {"chosen": "Hi? Good day!", "rejected": "Hi? What?"},
    {"instruction": "Hi?", "output_1": "What?", "output_2": "Good day!", "preference": 2.0},
    {"question": "Hi?", "prediction 1": "Good day!", "prediction 2": "What?", "preference": [1]},
    {"prompt": "Hi?", "response_0": "What?", "response_1": "Good day!", "better_response_id": 1},
]


def write(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> Source:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build(Source, {"path": str(folder / name)}, where="source")


@pytest.mark.parametrize("row", PAIRS)
def test_each_format_gives_the_same_pair(row: dict[str, Any], tmp_path: Path) -> None:
    (preference,) = preferences(write(tmp_path, row))
    assert (preference.prompt, preference.chosen, preference.rejected) == ((QUESTION,), (GOOD,), (BAD,))
    assert preference.id == "rows.jsonl:1" and preference.source == "rows" and preference.margin is None


def test_the_common_prefix_of_both_answers_is_the_prompt(tmp_path: Path) -> None:
    text = "\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: Well?\n\nAssistant: {}"
    (preference,) = preferences(write(tmp_path, {"chosen": text.format("Good day!"), "rejected": text.format("What?")}))
    assert preference.prompt == (QUESTION, Message("assistant", "Yes."), Message("user", "Well?"))
    assert (preference.chosen, preference.rejected) == ((GOOD,), (BAD,))


def test_an_answer_that_is_a_prefix_of_the_other_stays_an_answer(tmp_path: Path) -> None:
    chosen_messages = [USER, {"role": "assistant", "content": "Good day!"}]
    (preference,) = preferences(
        write(tmp_path, {"chosen": chosen_messages, "rejected": [*chosen_messages, USER, *chosen_messages[1:]]})
    )
    assert preference.chosen == (GOOD,) and preference.rejected == (GOOD, QUESTION, GOOD)


def test_system_margin_and_provenance_are_kept(tmp_path: Path) -> None:
    row = {"id": 7, "system": "Be kind.", "prompt": "Hi?", "chosen": "Good day!", "rejected": "What?"}
    (preference,) = preferences(
        write(tmp_path, {**row, "margin": 0.5, "source": "people", "licence": "MIT", "by": "Ann"})
    )
    assert preference.prompt[0] == Message("system", "Be kind.")
    assert (preference.id, preference.margin, preference.source, preference.licence) == ("7", 0.5, "people", "MIT")
    assert preference.metadata == {"by": "Ann"}


def test_unusable_pairs_are_dropped_with_a_reason(tmp_path: Path) -> None:
    drops: list[DroppedRecord] = []
    rows = [
        {"chosen": HH.format("Same."), "rejected": HH.format("Same.")},
        {"chosen": HH.format("Good day!") + "\n\nHuman: Bye.", "rejected": HH.format("What?")},
        {"chosen": HH.format("Good day!"), "rejected": HH.format("")},
        {"chosen": HH.format("Good day!"), "rejected": "\n\nHuman: No?\n\nAssistant: No."},
        {"chosen": HH.format("Good day!"), "rejected": HH.format("What?")},
    ]
    assert len(list(preferences(write(tmp_path, *rows), dropped=drops.append))) == 1
    assert [drop.reason for drop in drops] == ["same", "no_answer", "no_answer", "no_prompt"]
    assert drops[0].id == "rows.jsonl:1" and drops[0].detail == "both answers are the same"
    drops.clear()
    tie = {"instruction": "Hi?", "output_1": "a", "output_2": "b", "preference": 1.5}
    assert not list(preferences(write(tmp_path, tie), dropped=drops.append)) and drops[0].reason == "tie"


def test_a_list_of_predictions_gives_pairs(tmp_path: Path) -> None:
    row = {"question": "Hi?", **{f"prediction {n}": str(n) for n in (1, 2, 3)}, "preference": [1, 2, 0]}
    pairs = list(preferences(write(tmp_path, {**row, "passages": [["A title", "A line."]]})))
    assert [(pair.chosen[0].content, pair.rejected[0].content) for pair in pairs] == [("1", "2"), ("3", "1")]
    assert [pair.id for pair in pairs] == ["rows.jsonl:1/1", "rows.jsonl:1/2"]
    assert pairs[0].prompt == (Message("user", "A title\nA line.\n\nHi?"),)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi?", "completion": "Good day!", "label": True},
        {"instruction": "Hi?", "output": "Good day!", "kto_tag": 1},
        {"messages": [USER, {"role": "assistant", "content": "Good day!"}], "label": True},
    ],
)
def test_single_labelled_answers_are_ratings_and_not_pairs(row: dict[str, Any], tmp_path: Path) -> None:
    source = write(tmp_path, row)
    (rating,) = ratings(source)
    assert (rating.prompt, rating.answer, rating.good) == ((QUESTION,), (GOOD,), True)
    with pytest.raises(DataError, match="expected pairs of answers, got answers with a label; train on them with"):
        list(preferences(source))


def test_a_pair_gives_two_ratings(tmp_path: Path) -> None:
    chosen, rejected = ratings(write(tmp_path, PAIRS[0]))
    assert (chosen.answer, chosen.good, rejected.answer, rejected.good) == ((GOOD,), True, (BAD,), False)
    assert chosen.id == "rows.jsonl:1/chosen"


def test_a_row_without_a_preference_is_refused_with_the_formats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1: expected a preference in one of the formats .*pair \(prompt, chosen"):
        list(preferences(write(tmp_path, {"text": "Hi."})))
    with pytest.raises(DataError, match=r"row 2: expected a row of the format pair .*, got `chosen` is missing|holds"):
        list(preferences(write(tmp_path, PAIRS[0], {**PAIRS[0], "chosen": {"role": "assistant"}})))
    with pytest.raises(DataError, match="the label is 'maybe', not true or false"):
        list(ratings(write(tmp_path, {"prompt": "a", "completion": "b", "label": "maybe"})))
    with pytest.raises(DataError, match="not a list of 3 values"):
        row = {"question": "Hi?", **{f"prediction {n}": str(n) for n in (1, 2, 3)}, "preference": [1, 2]}
        list(preferences(write(tmp_path, row)))


def test_a_preferences_artifact_gives_pairs_ratings_and_dialogues(tmp_path: Path) -> None:
    write(tmp_path, PAIRS[0], name="preferences.jsonl")
    (tmp_path / "report.json").write_text("{}")
    folder = build(Source, {"path": str(tmp_path)}, where="source")
    assert len(list(preferences(folder))) == 1 and len(list(ratings(folder))) == 2
    with pytest.raises(DataError, match=r"holds preferences, and no dialogues.jsonl"):
        list(dialogues(folder))
    write(tmp_path, {"prompt": "a", "completion": "b"}, name="dialogues.jsonl")
    assert len(list(dialogues(folder))) == 1
    write(tmp_path, name="rated.jsonl")
    assert len(list(ratings(folder))) == 2
    write(tmp_path, *[{"prompt": "a", "completion": "b", "label": True}] * 3, name="rated.jsonl")
    assert len(list(ratings(folder))) == 3 and len(list(preferences(folder))) == 1


# -- the built-in world


def world(part: str | None = None, **settings: Any) -> Source:
    return Source(world=WorldSettings(things=40, documents=20, dialogues=20), part=part, **settings)


def test_parts_of_the_world_are_selected_by_name() -> None:
    assert {record.source for record in documents(world("vet", limit=3))} == {"world:vet"}
    assert {record.source for record in documents(world("court", limit=3))} == {"world:court"}
    assert {record.source for record in dialogues(world("sums", limit=3))} == {"world:sum"}
    assert len(list(dialogues(world("refusals", limit=3)))) == 3
    assert len(list(documents(world("documents")))) == 20
    pairs = list(preferences(world(limit=5, licence="MIT")))
    assert (
        all(isinstance(record, Preference) and record.source == "world:preference" for record in pairs)
        and len(pairs) == 5
    )
    assert len(list(preferences(world()))) == 1000


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"world: part: `vett` is not known here; did you mean `vet`"):
        list(documents(world("vett")))
    with pytest.raises(ConfigError, match="`sums` is not known here"):
        list(documents(world("sums")))
    with pytest.raises(ConfigError, match="`part` names a part of the built-in world"):
        build(Source, {"path": "a.jsonl", "part": "vet"}, where="source")


# -- real files


@pytest.mark.parametrize(
    ("file", "pairs", "reasons"),
    [
        ("dpo_en_demo.jsonl.gz", 300, {}),
        ("finegrained_qa_feedback.jsonl.gz", 2006, {"tie": 262}),
        ("hh_rlhf_harmless_base_test.jsonl.gz", 1723, {"no_answer": 2}),
        ("nc_alpacaeval_gpt4_prefs.jsonl.zst", 6701, {"tie": 77, "no_answer": 2}),
        ("rasbt_preference.jsonl.gz", 805, {"same": 4}),
    ],
)
def test_real_preferences_are_read(shared: Path, file: str, pairs: int, reasons: dict[str, int]) -> None:
    drops: list[DroppedRecord] = []
    records = list(preferences(Source(path=str(shared / "data/preference" / file)), dropped=drops.append))  # type: ignore[arg-type]
    assert Counter(drop.reason for drop in drops) == reasons
    assert len(records) == pairs
    assert all(pair.prompt and pair.chosen[-1].role == pair.rejected[-1].role == "assistant" for pair in records)


def test_real_labelled_answers_are_read(shared: Path) -> None:
    labelled_answers = list(ratings(Source(path=str(shared / "data/preference/kto_en_demo.jsonl.gz"))))  # type: ignore[arg-type]
    assert Counter(rating.good for rating in labelled_answers) == {True: 150, False: 150}
    assert all(rating.prompt[-1].role == "user" for rating in labelled_answers)
