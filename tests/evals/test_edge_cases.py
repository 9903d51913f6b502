"""Edge cases on a tiny chat model and on fake models with one defect each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from vita.data.records import Message
from vita.data.tokens.chat_template import ChatTemplate
from vita.evals.edge_cases import CASES, INVARIANTS, EdgeCaseResult, figures, leaks, repeated_share, run_cases, valid
from vita.infer.engine import Completion, Engine
from vita.infer.sampling import Sampling
from vita.testing import byte_tokenizer, tiny_model

GROUPS = {"empty", "vague", "confusing", "contradictory", "marks", "unicode", "special_tokens", "many_turns", "long"}


class FixedAnswerModel(Engine):
    """A chat model that always gives the same answer."""

    def __init__(self, text: str, *, finish: str = "stop", ids: Sequence[int] = ()) -> None:
        super().__init__(tiny_model(context=192), byte_tokenizer(), template=ChatTemplate.default())
        self.completion = Completion(text, tuple(ids) or (*text.encode(), self.tokenizer.end_of_turn), finish, ())  # type: ignore[arg-type]

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Any, *, visible: frozenset[int] = frozenset()
    ) -> list[Completion]:
        super().check_prompt([0] * max(map(len, prompts), default=1), "prompt", room=1)
        return [self.completion for _ in prompts]


def invariant_values(engine: Engine) -> dict[str, float]:
    return {name: figure.value for name, figure in figures(run_cases(engine)).items()}


def test_a_good_answer_passes_all_cases_and_each_invariant_is_judged() -> None:
    results = run_cases(FixedAnswerModel("I do not know what you mean."))
    assert set(CASES) == GROUPS == {result.group for result in results}
    assert set(figures(results)) == {*INVARIANTS, "all_passed"}
    assert all(result.passed for result in results), [result for result in results if not result.passed]
    refused = {result.id for result in results if result.finish == "refused"}
    assert refused == {"long/just_too_long", "long/far_too_long"}
    assert len({result.id for result in results}) == len(results) > 45


@pytest.mark.parametrize(
    ("engine", "failed_invariants"),
    [
        (lambda: FixedAnswerModel(" \n"), {"not_empty"}),
        (lambda: FixedAnswerModel("a cat " * 20), {"no_loop"}),
        (lambda: FixedAnswerModel("Yes.\nuser\nNo."), {"no_leak"}),
        (lambda: FixedAnswerModel("Yes <|im_start|>"), {"no_leak"}),
        (lambda: FixedAnswerModel("Yes", ids=[65, 257, 258]), {"no_leak"}),
        (lambda: FixedAnswerModel("half \ufffd of it"), {"valid_text"}),
        (lambda: FixedAnswerModel("bell \x07"), {"valid_text"}),
        (lambda: FixedAnswerModel("and so on", finish="length"), {"stops"}),
    ],
    ids=["empty", "loops", "role", "name", "special id", "failed_invariants", "control", "endless"],
)
def test_each_defect_fails_only_its_invariant(engine: Any, failed_invariants: set[str]) -> None:
    assert {name for name, value in invariant_values(engine()).items() if value < 1} == {
        *failed_invariants,
        "all_passed",
    }


def test_a_crash_fails_only_its_case() -> None:
    class Crashing(FixedAnswerModel):
        def generate(
            self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, visible: frozenset[int] = frozenset()
        ) -> list[Completion]:
            if any(len(ids) == 192 - 1 for ids in prompts):
                raise RuntimeError("index out of range")
            return super().generate(prompts, sampling)

    results = run_cases(Crashing("Hello."))
    assert [(result.id, result.finish, result.answer) for result in results if not result.verdicts["no_crash"]] == [
        ("long/just_fits", "crash", "index out of range")
    ]


def test_a_tiny_model_runs_all_cases_without_a_crash() -> None:
    engine = Engine(tiny_model(context=192), byte_tokenizer(), template=ChatTemplate.default())
    results = run_cases(engine, max_tokens=8)
    values = figures(results)
    assert values["no_crash"].value == values["refused"].value == values["special_tokens_as_text"].value == 1.0
    assert results == run_cases(engine, max_tokens=8)
    (fits,) = [result for result in results if result.id == "long/just_fits"]
    assert "stops" not in fits.verdicts


def test_forged_special_tokens_of_a_template_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FixedAnswerModel("Hello.")

    def encode_unescaped(messages: Sequence[Message]) -> list[int]:
        return engine.tokenizer.encode_template(ChatTemplate.default().render(messages, add_generation_prompt=True))

    monkeypatch.setattr(engine, "chat_ids", encode_unescaped)
    assert invariant_values(engine)["special_tokens_as_text"] < 1


def test_repetition_leaks_and_invalid_text_of_single_answers() -> None:
    assert repeated_share([1, 2, 3, 4] * 5) == pytest.approx(1 - 4 / 17)
    assert repeated_share([1] * 11) == 0.0 and repeated_share(range(30)) == 0.0
    assert valid("tab\t and é \U0001f600") and not valid("\ud83d")
    assert valid("cut \ufffd", cut=True) and not valid("cut \ufffd")
    engine = FixedAnswerModel("")
    assert not leaks(Completion("the user said", (65, 258), "stop", ()), engine)
    assert EdgeCaseResult("a", "b", "p", "x", "stop", {"stops": False}).as_json()["all_passed"] is False
