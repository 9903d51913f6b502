"""IFEval: strict and loose accuracy per prompt and per instruction, and reading of its file."""

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


def test_loose_accuracy_ignores_a_first_line_and_asterisks() -> None:
    result = judge(item(NO_COMMA), "Sure, here it is:\nA cat is furry.")
    assert (result.strict, result.loose) == ((False,), (True,))
    quotation_result = judge(item(Instruction("startend:quotation", {})), '*"A cat."*')
    assert (quotation_result.strict, quotation_result.loose) == ((False,), (True,))


def test_an_empty_answer_follows_no_instruction() -> None:
    assert judge(item(NO_COMMA), "  ").strict == (False,)
    assert judge(item(NO_COMMA), "one, line").loose == (False,)


def test_unchecked_instructions_are_reported_and_not_counted_as_followed() -> None:
    result = judge(item(GERMAN, NO_COMMA), "Hallo!")
    assert result.strict == (None, True)
    assert not result.as_json()["prompt_strict"]
    figure = figures([result])
    assert figure["unchecked"].value == 0.5
    assert figure["instruction_strict"].value == 0.5 and figure["prompt_loose"].value == 0.0


def test_figures_worked_by_hand() -> None:
    answers = ["<<Hi>> no commas", "<<Hi>>, commas", "nothing at all"]
    results = [judge(item(NO_COMMA, TITLE, id=str(n)), answer) for n, answer in enumerate(answers)]
    figure = figures(results, seed=3)
    assert figure["prompt_strict"].value == pytest.approx(1 / 3) and figure["prompt_strict"].n == 3
    assert figure["instruction_strict"].value == pytest.approx(4 / 6)
    assert figure["instruction_strict"].low < 4 / 6 < figure["instruction_strict"].high
    assert by_instruction(results)["detectable_format:title"]["strict"].value == pytest.approx(2 / 3)


def test_a_share_of_zero_has_an_interval() -> None:
    figure = figures([judge(item(TITLE), "no") for _ in range(20)])["instruction_strict"]
    assert (figure.value, figure.low) == (0.0, 0.0) and figure.high > 0.1


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return str(path)


def row(**changes: Any) -> dict[str, Any]:
    return {"key": 7, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], **changes}


def test_a_file_is_read_without_unset_settings(tmp_path: Path) -> None:
    (ifeval_item,) = read(write(tmp_path / "a.jsonl", row(kwargs=[{"relation": None}])))
    assert ifeval_item == IFEvalItem("7", "p", (NO_COMMA,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction_id_list": ["punctuation:no_coma"]}, "did you mean `punctuation:no_comma`"),
        ({"kwargs": [{"num_words": 3}]}, "its settings do not fit: got an unexpected keyword argument 'num_words'"),
        ({"kwargs": []}, "as many `kwargs` as `instruction_id_list`"),
        ({"prompt": 3}, "expected text, got 3"),
    ],
)
def test_an_invalid_row_is_refused_with_its_position(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl.*") as raised:
        read(write(tmp_path / "a.jsonl", row(**changes)))
    assert message in str(raised.value)


def test_a_sample_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *(row(key=n) for n in range(50)))
    samples = [[ifeval_item.id for ifeval_item in read(path, limit=5, seed=seed)] for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2] and len(samples[0]) == 5


def test_every_instruction_of_ifeval_is_supported(shared: Path) -> None:
    ifeval_items = read(str(shared / "data/eval/ifeval.jsonl.gz"))
    counts = Counter(instruction.id for item in ifeval_items for instruction in item.instructions)
    assert set(counts) == set(CHECKS.names())
    results: list[IFEvalResult] = [judge(item, "A cat is a furry mammal.") for item in ifeval_items]
    assert 0.0 < figures(results)["instruction_loose"].value < 0.6
