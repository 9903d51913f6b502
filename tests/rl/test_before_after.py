"""Comparison of a model with its parent: figures worked by hand, paired sampling and intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import zstandard

from vita.data.records import Message
from vita.data.tokens.chat_template import ChatTemplate
from vita.infer.engine import Completion, Engine, TextScore
from vita.infer.sampling import Sampling
from vita.reporting.figures import ReportContent, read_report, write_report
from vita.reporting.page import Table, report_sections
from vita.rl.before_after import compare_models, effective_reward
from vita.spine.errors import DataError
from vita.testing import byte_tokenizer, tiny_model

PROMPTS = [[Message("user", text)] for text in ("a", "bc", "d?", "e")]
GREEDY, PURE = Sampling(temperature=0, max_tokens=6), Sampling(max_tokens=6)


class FixedAnswerEngine:
    """An engine with fixed answers and fixed log-probabilities."""

    def __init__(self, answers: Sequence[str], logprobs: Sequence[float]) -> None:
        self.answers, self.logprobs = answers, logprobs
        self.samplings: list[Sampling] = []

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        return [ord(letter) for letter in messages[-1].content]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> list[Completion]:
        self.samplings += sampling
        return [Completion(text, tuple(map(ord, text)), "stop", ()) for text in self.answers]

    def score(self, pairs: Sequence[Any]) -> list[TextScore]:
        return [TextScore((value,), True) for value in self.logprobs]


def create_fake(answers: Sequence[str], logprobs: Sequence[float] | None = None) -> Any:
    return FixedAnswerEngine(answers, logprobs or [-1.0] * len(answers))


def engine(seed: int = 0) -> Engine:
    return Engine(tiny_model(seed=seed), byte_tokenizer(), template=ChatTemplate.default())


def length(prompts: Any, answers: Sequence[Completion]) -> list[float | None]:
    return [float(len(answer.text)) for answer in answers]


def has_x(prompts: Any, answers: Sequence[Completion]) -> list[bool | None]:
    return ["x" in answer.text for answer in answers]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "samples"), [(GREEDY, 3), (PURE, 3), (Sampling(temperature=0.7, max_tokens=6), 2)]
)
def test_a_model_does_not_differ_from_itself(sampling: Sampling, samples: int) -> None:
    comparison = compare_models(
        engine(), engine(), PROMPTS, score=length, correctness=has_x, samples=samples, sampling=sampling, seed=1
    )
    assert (
        comparison.figures["reward/change"].value
        == comparison.figures["kl"].value
        == comparison.figures["accuracy/change"].value
        == 0
    )
    assert comparison.figures["win_rate"].value == 0.5
    assert comparison.figures["reward/before"] == comparison.figures["reward/after"]
    assert comparison.figures["length/before"] == comparison.figures["length/after"]
    assert {figure.n for figure in comparison.figures.values()} == {len(PROMPTS)}
    assert len(comparison.items) == len(PROMPTS) * (1 if sampling is GREEDY else samples)


@pytest.mark.slow
def test_another_model_differs_and_equal_seeds_give_equal_results() -> None:
    first, second = (
        compare_models(engine(), engine(1), PROMPTS, score=length, sampling=PURE, seed=3, samples=2) for _ in "ab"
    )
    assert first == second and first.figures["kl"].value > 0
    assert "accuracy/before" not in first.figures
    other_seed = compare_models(engine(), engine(1), PROMPTS, score=length, sampling=PURE, seed=4, samples=2)
    assert other_seed.items != first.items


def test_figures_worked_by_hand() -> None:
    before, after = (
        create_fake(["x", "xx", "yy", "y"], [-1, -2, -3, -4]),
        create_fake(["xxx", "xx", "y", "xy"], [-1, -1, -1, -1.5]),
    )
    comparison = compare_models(before, after, PROMPTS, score=length, correctness=has_x, sampling=PURE, seed=0)
    values = {name: round(figure.value, 9) for name, figure in comparison.figures.items()}
    assert values == {
        "reward/before": 1.5,
        "reward/after": 2.0,
        "reward/change": 0.5,
        "win_rate": 0.625,  # won, tied, lost, won
        "accuracy/before": 0.5,
        "accuracy/after": 0.75,
        "accuracy/change": 0.25,
        "kl": (0 + 1 + 2 + 2.5) / 4,
        "length/before": 1.5,
        "length/after": 2.0,
    }
    assert comparison.items[1] == {
        "task": "comparison",
        "id": "1/0",
        "group": "",
        "prompt": [{"role": "user", "content": "bc"}],
        "before": {"text": "xx", "tokens": 2, "finish": "stop", "reward": 2.0, "correct": True},
        "after": {"text": "xx", "tokens": 2, "finish": "stop", "reward": 2.0, "correct": True},
        "kl": 1.0,
    }
    assert comparison.facts()["win_rate"] == 0.625


def test_both_models_get_the_same_seeds_and_kl_uses_unfiltered_samples() -> None:
    before, after = create_fake(["x"] * 4), create_fake(["x"] * 4)
    compare_models(before, after, PROMPTS, score=length, sampling=Sampling(temperature=0.5, top_k=3), seed=0)
    assert before.samplings == after.samplings[:4]
    assert [(sampling.temperature, sampling.top_k) for sampling in after.samplings[4:]] == [(1.0, 0)] * 4


def test_intervals_of_certain_shares_and_of_gains_have_a_width() -> None:
    comparison = compare_models(
        create_fake(["x"] * 4),
        create_fake(["x"] * 4),
        PROMPTS,
        score=length,
        correctness=has_x,
        sampling=GREEDY,
        seed=0,
    )
    accuracy = comparison.figures["accuracy/after"]
    assert accuracy.value == 1 and accuracy.low < 0.6
    assert comparison.figures["accuracy/change"].low < 0 < comparison.figures["accuracy/change"].high
    several = compare_models(
        create_fake(["x"] * 8),
        create_fake(["x"] * 8),
        PROMPTS,
        score=length,
        correctness=has_x,
        samples=2,
        sampling=PURE,
        seed=0,
    )
    assert several.figures["accuracy/after"].low == pytest.approx(accuracy.low)
    assert several.figures["accuracy/change"].high == pytest.approx(1 - accuracy.low)
    assert several.figures["win_rate"].low == pytest.approx(0.5 - 0.5 * (1 - accuracy.low))
    reward_comparison = compare_models(
        create_fake(["x"] * 4), create_fake(["", "xx", "xxx", "x"]), PROMPTS, score=length, sampling=GREEDY, seed=0
    )
    gain = reward_comparison.figures["reward/change"]
    assert gain.low < 0.5 < gain.high


def test_answers_without_a_score_are_removed_from_both_models() -> None:
    def score_except_question_mark(prompts: Any, answers: Sequence[Completion]) -> list[float | None]:
        return [None if answer.text == "?" else float(len(answer.text)) for answer in answers]

    comparison = compare_models(
        create_fake(["x", "?", "x", "x"]),
        create_fake(["xx", "xx", "?", "x"]),
        PROMPTS,
        score=score_except_question_mark,
        sampling=GREEDY,
        seed=0,
    )
    assert (comparison.figures["reward/change"].value, comparison.figures["reward/change"].n) == (0.5, 2)
    assert comparison.figures["win_rate"].value == 0.75
    empty_comparison = compare_models(
        create_fake(["x"] * 4), create_fake(["x"] * 4), PROMPTS, score=lambda p, a: [None] * 4, sampling=GREEDY, seed=0
    )
    assert (
        math.isnan(empty_comparison.figures["reward/change"].value) and "reward/change" not in empty_comparison.facts()
    )


def test_a_comparison_is_written_as_a_report(tmp_path: Path) -> None:
    comparison = compare_models(
        create_fake(["x"] * 4),
        create_fake(["xx"] * 4),
        PROMPTS,
        score=length,
        correctness=has_x,
        sampling=GREEDY,
        seed=0,
    )
    write_report(ReportContent.of("dpo", comparison.groups(), baseline="1" * 64), tmp_path)
    comparison.write_items(tmp_path)
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]["comparison"]["comparison"]
    interval = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 4, "confidence": 0.95}
    assert figures["reward/change"] == {**interval, "unit": None, "higher_is_better": True}
    rows = zstandard.ZstdDecompressor().decompress((tmp_path / "items.jsonl.zst").read_bytes()).splitlines()
    assert [orjson.loads(row)["id"] for row in rows] == ["0/0", "1/0", "2/0", "3/0"]
    table = report_sections(read_report(tmp_path))["Comparison with the parent model"][0]
    assert isinstance(table, Table) and ("change in reward", "1.000 (1.000 to 1.000)", "4", "") in table.rows


def test_a_truncated_answer_has_no_reward() -> None:
    complete, truncated = (Completion("xx", (1, 2), finish, (0.0, 0.0)) for finish in ("stop", "length"))
    assert [effective_reward(1.5, answer) for answer in (complete, truncated)] == [1.5, 0.0]
    assert [
        effective_reward(-0.5, truncated),
        effective_reward(None, truncated),
        effective_reward(1.0, truncated, penalty=0.5),
    ] == [
        -0.5,
        0.0,
        -0.5,
    ]
    assert effective_reward(None, complete) is None


def test_few_prompts_have_a_student_interval() -> None:
    scores = iter([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    comparison = compare_models(
        create_fake(["x"] * 4),
        create_fake(["x"] * 4),
        PROMPTS,
        score=lambda p, a: next(scores),
        sampling=GREEDY,
        seed=0,
    )
    gain = comparison.figures["reward/change"]
    assert (gain.low, gain.high) == pytest.approx((0.75 - 3.182 * 0.25, 0.75 + 3.182 * 0.25), abs=1e-3)


def test_invalid_comparisons_are_refused() -> None:
    with pytest.raises(DataError, match="comparison: there are no prompts for the comparison of the models"):
        compare_models(create_fake([]), create_fake([]), [], score=length, sampling=GREEDY, seed=0)
    with pytest.raises(DataError, match=r"comparison.reward: expected 4 values, one for each answer, got 1"):
        compare_models(
            create_fake(["x"] * 4), create_fake(["x"] * 4), PROMPTS, score=lambda p, a: [1.0], sampling=GREEDY, seed=0
        )
    with pytest.raises(DataError, match=r"comparison.reward: expected a finite number or None, got nan"):
        compare_models(
            create_fake(["x"] * 4),
            create_fake(["x"] * 4),
            PROMPTS,
            score=lambda p, a: [math.nan] * 4,
            sampling=GREEDY,
            seed=0,
        )
    other_engine = Engine(tiny_model(), byte_tokenizer(), template=ChatTemplate("{{ messages[0]['content'] }}"))
    with pytest.raises(DataError, match="tokenize the prompts differently"):
        compare_models(engine(), other_engine, PROMPTS, score=length, sampling=GREEDY, seed=0)


@pytest.mark.slow
def test_kl_equals_the_divergence_over_all_answers() -> None:
    """For one token over a small vocabulary, the estimate is close to the sum over all tokens."""
    parent, tuned = engine(), engine(5)
    prompt = parent.chat_ids(PROMPTS[0])
    with torch.no_grad():
        logs = [m.model(torch.tensor([prompt]))[0, -1].log_softmax(-1) for m in (tuned, parent)]
    exact = (logs[0].exp() * (logs[0] - logs[1])).sum().item()
    sampling = Sampling(max_tokens=1)
    comparison = compare_models(parent, tuned, [PROMPTS[0]], score=length, samples=600, sampling=sampling, seed=0)
    assert comparison.figures["kl"].value == pytest.approx(exact, rel=0.15)
