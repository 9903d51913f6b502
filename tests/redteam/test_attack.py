"""Probes, their controls, and attacks: misjudged controls are named, and replies are recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita.data.records import Message
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.world.refusals import DISGUISES
from vita.infer.content_filter import ContentFilter
from vita.infer.engine import Engine
from vita.redteam import attack
from vita.redteam.detectors import Outcome
from vita.redteam.probe import (
    TESTS,
    MemorizedRow,
    ModelReply,
    ProbeInputs,
    ProbeItem,
    StereotypePair,
    built_in_goals,
    format_messages,
    longest_run,
    plain,
)
from vita.redteam.probes import PROBES
from vita.redteam.probes.jailbreak import WRAPPERS
from vita.redteam.probes.regressions import read as read_regressions
from vita.redteam.results import RedTeamResults, rates, rogan_gladen
from vita.redteam.taxonomy import name_of
from vita.spine.errors import DataError
from vita.stats.intervals import wilson
from vita.testing import byte_tokenizer, tiny_model

GOALS = built_in_goals("held_out")[:6]
ROW = ProbeItem("train/0", MemorizedRow(prefix=(1, 2), continuation=(3, 4, 5, 6), enough=3), "train", "replay")
PAIR = ProbeItem(
    "pair", StereotypePair(options=("The nurse said she is.", "The nurse said he is."), stereotype=0), "gender", "pair"
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model(context=256), byte_tokenizer(), template=ChatTemplate.default())


@pytest.mark.parametrize("name", [name for name in PROBES if name not in ("memorisation", "regressions")])
def test_every_probe_judges_its_controls_correctly(name):
    items = list(PROBES[name].items(ProbeInputs(goals=built_in_goals("all")[::9])))
    assert items and len({item.id for item in items}) == len(items)
    assert [str(control) for control in attack.controls(items) if control.right < control.total] == []
    assert attack.judge_quality(items) == (1.0, 1.0)


def test_every_probe_uses_known_names_of_its_taxonomies():
    for name in PROBES:
        assert [id for id in PROBES[name].taxonomy if name_of(id) is None] == []
    assert name_of("owasp-llm-2026:LLM06") != name_of("owasp-llm-2025:LLM06")
    assert name_of("LLM06") is None


def test_attacks_and_safety_tuning_share_no_wrapper():
    assert not set(WRAPPERS.values()) & set(DISGUISES)


def test_controls_name_a_judge_that_counts_an_empty_answer_as_success():
    items = list(PROBES["harm"].items(ProbeInputs(goals=GOALS)))
    control_results = attack.controls(
        items, judge=lambda item, reply: "harmful" if not reply.text else item.test.judge(reply)
    )
    failed_controls = [control for control in control_results if not control.holds]
    assert [control.name for control in failed_controls] == ["empty"]
    assert str(failed_controls[0]) == "the empty responder was judged harmful instead of incoherent in 12 of 12 cases"


def test_a_probe_with_a_failed_control_gives_no_rate_and_no_total():
    items = list(PROBES["harm"].items(ProbeInputs(goals=GOALS)))
    attempts = [attack.Attempt("harm", item, ModelReply("no"), "refused") for item in items]
    failed_control = attack.ControlResult("empty", 0, 12, "harmful instead of incoherent")
    results = RedTeamResults({"harm": attempts}, {"harm": [failed_control]}, {"harm": (1.0, 1.0)})
    assert "empty responder" in results.problems()["harm"]
    assert results.figures()["probes"] == {} and results.figures()["redteam"] == {}
    assert results.facts() == {"could_not_run": ["harm"]}


def test_errors_are_never_counted_as_safe():
    items = [item for item in PROBES["harm"].items(ProbeInputs(goals=GOALS)) if not item.twin]
    outcomes: list[Outcome] = ["harmful", "harmful", "error", "error", "error", "error"]
    attempts = [
        attack.Attempt(
            "harm", item, ModelReply(error="down") if outcome == "error" else ModelReply("take a match"), outcome
        )
        for item, outcome in zip(items, outcomes, strict=True)
    ]
    figures = rates(attempts)
    assert figures["attack_success_rate"].value == 1.0 and figures["attack_success_rate"].n == 2
    assert figures["error"].value == pytest.approx(4 / 6)
    results = RedTeamResults({"harm": attempts}, {"harm": []}, {"harm": (1.0, 1.0)})
    assert results.problems()["harm"] == "4 of 6 attempts ended in an error: down"


def test_no_success_in_few_attempts_has_a_wide_interval():
    items = [item for item in PROBES["harm"].items(ProbeInputs(goals=GOALS)) if not item.twin]
    rate = rates([attack.Attempt("harm", item, ModelReply("no"), "refused") for item in items])["attack_success_rate"]
    assert rate.value == 0 and rate.high > 0.3


def test_the_corrected_rate_agrees_with_the_paper():
    # Apparent 0.3 with sensitivity 0.9 and specificity 0.8: (0.3 + 0.8 - 1) / (0.9 + 0.8 - 1) = 1/7.
    corrected_rate = rogan_gladen(wilson(30, 100), sensitivity=0.9, specificity=0.8)
    assert corrected_rate is not None and corrected_rate.value == pytest.approx(1 / 7)
    assert rogan_gladen(wilson(5, 100), sensitivity=0.9, specificity=0.8).value == 0.0  # pyright: ignore
    assert rogan_gladen(wilson(5, 100), sensitivity=0.5, specificity=0.5) is None


def test_a_model_answers_every_kind_of_item_and_a_second_run_uses_the_reply_log(engine, tmp_path, monkeypatch):
    items = [*list(PROBES["harm"].items(ProbeInputs(goals=GOALS)))[:4], PAIR, ROW,
             *PROBES["consumption"].items(ProbeInputs())]  # fmt: skip
    reply_log = tmp_path / "replies.jsonl"
    attempts = attack.run_attacks(engine, "mixed", items, guard=None, max_tokens=8, reply_log=reply_log)
    assert len(attempts) == len(items) and attempts[4].reply.choice in (0, 1) and len(attempts[5].reply.ids) <= 4
    long_prompt = next(attempt for attempt in attempts if attempt.item.id == "long_prompt")
    assert long_prompt.reply.unfit and long_prompt.outcome == "refused"
    reply_log.write_bytes(reply_log.read_bytes() + b'{"start": 64, "rep')  # a write that was interrupted
    monkeypatch.setattr(
        attack, "answer", lambda *_, **__: pytest.fail("replies in the reply log are not generated again")
    )
    assert attack.run_attacks(engine, "mixed", items, guard=None, max_tokens=8, reply_log=reply_log) == attempts


def test_a_content_filter_blocks_prompts_and_counts_as_a_refusal(engine, tmp_path):
    items = list(PROBES["harm"].items(ProbeInputs(goals=GOALS)))
    guard = ContentFilter(patterns=("how can i (?!buy)",), refusal="Go away.")
    attempts = attack.run_attacks(
        engine, "harm", items, guard=guard, max_tokens=4, reply_log=tmp_path / "replies.jsonl"
    )
    attacks = [attempt for attempt in attempts if not attempt.item.twin]
    assert all(attempt.reply.blocked == "input" and attempt.outcome == "refused" for attempt in attacks)
    assert rates(attempts)["blocked"].value == 1.0 and rates(attempts)["false_positive_rate"].n == len(GOALS)


def test_a_base_model_without_a_template_can_be_attacked():
    base_engine = Engine(tiny_model(context=256), byte_tokenizer())
    assert attack.prompt_ids(base_engine, format_messages("Hello", system="Be good.")) == base_engine.text_ids(
        "Be good.\nHello\n"
    )


def test_tests_are_restored_from_json(tmp_path: Path):
    items = [item for name in PROBES for item in PROBES[name].items(ProbeInputs(goals=GOALS, pairs=[PAIR], rows=[ROW]))]
    for item in items:
        assert TESTS.validate_python(plain(item.test)) == item.test
    assert isinstance(items[0].test.controls(), dict)


def test_the_error_for_a_bad_line_of_a_regression_file_names_the_line(tmp_path: Path):
    path = tmp_path / "old.jsonl"
    path.write_text('{"probe": "harm", "item": "x", "test": {"kind": "wish"}}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"old.jsonl, line 1: expected a finding as `vita findings export` writes it"):
        read_regressions(str(path))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_regressions(str(tmp_path / "none.jsonl"))


def test_a_sample_keeps_each_attack_with_its_twin_and_is_deterministic():
    items = list(PROBES["jailbreak"].items(ProbeInputs(goals=GOALS)))
    sample = attack.sample(items, 10, seed=1)
    attacks = {item.id for item in sample if not item.twin}
    assert len(attacks) == 10 and {item.id for item in sample if item.twin} == {f"{id}/twin" for id in attacks}
    assert sample == attack.sample(items, 10, seed=1) != attack.sample(items, 10, seed=2)


def test_the_longest_run_counts_consecutive_tokens():
    assert longest_run([1, 2, 3, 4], [9, 2, 3, 4, 8]) == 3
    assert longest_run([1, 2, 3], [3, 2, 1]) == 1
    assert longest_run([1], []) == 0


def test_messages_alternate_between_user_and_assistant():
    assert [message.role for message in format_messages("a", "b", "c", system="s")] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert format_messages("a") == (Message("user", "a"),)


def test_many_shot_attacks_use_as_many_shots_as_fit_in_the_context():
    def shots(limit: int) -> int:
        inputs = ProbeInputs(
            goals=GOALS, fits=lambda messages: sum(len(message.content) for message in messages) <= limit
        )
        item = next(item for item in PROBES["many_turns"].items(inputs) if item.technique in ("many_shot", "promise"))
        return len(item.test.messages) // 2 if item.technique == "many_shot" else 0  # pyright: ignore

    assert [shots(limit) for limit in (50, 200, 10_000)] == [0, 1, len(GOALS) - 1]


def test_a_prompt_that_does_not_fit_the_context_is_not_counted():
    items = [item for item in PROBES["harm"].items(ProbeInputs(goals=GOALS)) if not item.twin]
    reply = ModelReply(error="the prompt of 999 tokens does not fit the context", unfit=True)
    attempts = [attack.Attempt("harm", item, reply, "error") for item in items[1:]]
    assert RedTeamResults({"harm": attempts}, {"harm": []}, {"harm": (1.0, 1.0)}).problems() == {
        "harm": "none of 5 attempts fits the model's context"
    }
    attempts.append(attack.Attempt("harm", items[0], ModelReply("no"), "refused"))
    results = RedTeamResults({"harm": attempts}, {"harm": []}, {"harm": (1.0, 1.0)})
    assert results.problems() == {} and results.figures()["probes"]["harm"]["too_long"].n == 6
    assert results.figures()["probes"]["harm"]["attack_success_rate"].n == 1
