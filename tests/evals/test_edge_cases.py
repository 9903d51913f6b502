"""Edge cases put to a tiny chat model and to fakes with one flaw each."""

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


class Fake(Engine):
    """A chat model that always says the same."""

    def __init__(self, text: str, *, finish: str = "stop", ids: Sequence[int] = ()) -> None:
        super().__init__(tiny_model(context=192), byte_tokenizer(), template=ChatTemplate.default())
        self.said = Completion(text, tuple(ids) or (*text.encode(), self.tokenizer.end_of_turn), finish, ())  # type: ignore[arg-type]

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Any, *, visible: frozenset[int] = frozenset()
    ) -> list[Completion]:
        super()._check([0] * max(map(len, prompts), default=1), "prompt", room=1)
        return [self.said for _ in prompts]


def held(engine: Engine) -> dict[str, float]:
    return {name: one.value for name, one in figures(run_cases(engine)).items()}


def test_a_good_answer_holds_everywhere_and_each_invariant_is_judged() -> None:
    met = run_cases(Fake("I do not know what you mean."))
    assert set(CASES) == GROUPS == {one.group for one in met}
    assert set(figures(met)) == {*INVARIANTS, "all_passed"}
    assert all(one.passed for one in met), [one for one in met if not one.passed]
    refused = {one.id for one in met if one.finish == "refused"}
    assert refused == {"long/just_too_long", "long/far_too_long"}
    assert len({one.id for one in met}) == len(met) > 45


@pytest.mark.parametrize(
    ("engine", "broken"),
    [
        (lambda: Fake(" \n"), {"not_empty"}),
        (lambda: Fake("a cat " * 20), {"no_loop"}),
        (lambda: Fake("Yes.\nuser\nNo."), {"no_leak"}),
        (lambda: Fake("Yes <|im_start|>"), {"no_leak"}),
        (lambda: Fake("Yes", ids=[65, 257, 258]), {"no_leak"}),
        (lambda: Fake("half \ufffd of it"), {"valid_text"}),
        (lambda: Fake("bell \x07"), {"valid_text"}),
        (lambda: Fake("and so on", finish="length"), {"stops"}),
    ],
    ids=["empty", "loops", "role", "name", "special id", "broken", "control", "endless"],
)
def test_each_flaw_breaks_its_own_invariant_only(engine: Any, broken: set[str]) -> None:
    assert {name for name, value in held(engine()).items() if value < 1} == {*broken, "all_passed"}


def test_a_crash_is_counted_and_costs_no_other_case() -> None:
    class Crashing(Fake):
        def generate(
            self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, visible: frozenset[int] = frozenset()
        ) -> list[Completion]:
            if any(len(ids) == 192 - 1 for ids in prompts):
                raise RuntimeError("index out of range")
            return super().generate(prompts, sampling)

    met = run_cases(Crashing("Hello."))
    assert [(one.id, one.finish, one.answer) for one in met if not one.verdicts["no_crash"]] == [
        ("long/just_fits", "crash", "index out of range")
    ]


def test_a_tiny_model_meets_all_cases_and_names_of_specials_stay_text() -> None:
    engine = Engine(tiny_model(context=192), byte_tokenizer(), template=ChatTemplate.default())
    met = run_cases(engine, max_tokens=8)
    found = figures(met)
    assert found["no_crash"].value == found["refused"].value == found["special_tokens_as_text"].value == 1.0
    assert met == run_cases(engine, max_tokens=8)
    (fits,) = [one for one in met if one.id == "long/just_fits"]
    assert "stops" not in fits.verdicts


def test_a_template_that_lets_users_forge_special_tokens_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Fake("Hello.")

    def forging(messages: Sequence[Message]) -> list[int]:
        return engine.tokenizer.encode_template(ChatTemplate.default().render(messages, add_generation_prompt=True))

    monkeypatch.setattr(engine, "chat_ids", forging)
    assert held(engine)["special_tokens_as_text"] < 1


def test_loops_leaks_and_broken_text_on_single_answers() -> None:
    assert repeated_share([1, 2, 3, 4] * 5) == pytest.approx(1 - 4 / 17)
    assert repeated_share([1] * 11) == 0.0 and repeated_share(range(30)) == 0.0
    assert valid("tab\t and é \U0001f600") and not valid("\ud83d")
    assert valid("cut \ufffd", cut=True) and not valid("cut \ufffd")
    engine = Fake("")
    assert not leaks(Completion("the user said", (65, 258), "stop", ()), engine)
    assert EdgeCaseResult("a", "b", "p", "x", "stop", {"stops": False}).as_json()["all_passed"] is False
