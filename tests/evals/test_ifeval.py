"""Instruction following: strict and loose, per prompt and per instruction, from file to figures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from vita.evals.ifeval import IFEvalItem, IFEvalResult, Instruction, by_instruction, figures, judge, read
from vita.evals.ifeval_checks import CHECKS
from vita.spine.errors import DataError

NO_COMMA = Instruction("punctuation:no_comma", {})
TITLE = Instruction("detectable_format:title", {})
GERMAN = Instruction("language:response_language", {"language": "de"})


def item(*instructions: Instruction, id: str = "1") -> IFEvalItem:
    return IFEvalItem(id, "Say something.", instructions)


def test_loose_forgives_a_first_line_and_asterisks_and_strict_does_not() -> None:
    found = judge(item(NO_COMMA), "Sure, here it is:\nA cat is furry.")
    assert (found.strict, found.loose) == ((False,), (True,))
    quoted = judge(item(Instruction("startend:quotation", {})), '*"A cat."*')
    assert (quoted.strict, quoted.loose) == ((False,), (True,))


def test_an_empty_answer_follows_nothing() -> None:
    assert judge(item(NO_COMMA), "  ").strict == (False,)
    assert judge(item(NO_COMMA), "one, line").loose == (False,)


def test_what_cannot_be_checked_is_told_and_never_counts_as_followed() -> None:
    found = judge(item(GERMAN, NO_COMMA), "Hallo!")
    assert found.strict == (None, True)
    assert not found.as_json()["prompt_strict"]
    figure = figures([found])
    assert figure["unchecked"].value == 0.5
    assert figure["instruction_strict"].value == 0.5 and figure["prompt_loose"].value == 0.0


def test_figures_agree_with_a_count_by_hand() -> None:
    answers = ["<<Hi>> no commas", "<<Hi>>, commas", "nothing at all"]
    found = [judge(item(NO_COMMA, TITLE, id=str(n)), answer) for n, answer in enumerate(answers)]
    figure = figures(found, seed=3)
    assert figure["prompt_strict"].value == pytest.approx(1 / 3) and figure["prompt_strict"].n == 3
    assert figure["instruction_strict"].value == pytest.approx(4 / 6)
    assert figure["instruction_strict"].low < 4 / 6 < figure["instruction_strict"].high
    assert by_instruction(found)["detectable_format:title"]["strict"].value == pytest.approx(2 / 3)


def test_nothing_followed_is_no_certainty() -> None:
    figure = figures([judge(item(TITLE), "no") for _ in range(20)])["instruction_strict"]
    assert (figure.value, figure.low) == (0.0, 0.0) and figure.high > 0.1


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return str(path)


def row(**changes: Any) -> dict[str, Any]:
    return {"key": 7, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], **changes}


def test_a_file_is_read_and_its_unset_settings_left_out(tmp_path: Path) -> None:
    (found,) = read(write(tmp_path / "a.jsonl", row(kwargs=[{"relation": None}])))
    assert found == IFEvalItem("7", "p", (NO_COMMA,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction_id_list": ["punctuation:no_coma"]}, "did you mean `punctuation:no_comma`"),
        ({"kwargs": [{"num_words": 3}]}, "its settings do not fit: got an unexpected keyword argument 'num_words'"),
        ({"kwargs": []}, "as many `kwargs` as `instruction_id_list`"),
        ({"prompt": 3}, "expected text, got 3"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl.*") as raised:
        read(write(tmp_path / "a.jsonl", row(**changes)))
    assert message in str(raised.value)


def test_a_sample_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *(row(key=n) for n in range(50)))
    chosen = [[one.id for one in read(path, limit=5, seed=seed)] for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2] and len(chosen[0]) == 5


def test_every_instruction_of_ifeval_is_known_and_its_settings_fit(shared: Path) -> None:
    found = read(str(shared / "data/eval/ifeval.jsonl.gz"))
    used = Counter(one.id for item in found for one in item.instructions)
    assert set(used) == set(CHECKS.names())
    judged: list[IFEvalResult] = [judge(item, "A cat is a furry mammal.") for item in found]
    assert 0.0 < figures(judged)["instruction_loose"].value < 0.6
