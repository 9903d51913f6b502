"""The parts of rephrasing: styles by weight, passages, the share, the forms, and stored results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vita.data.records import Document
from vita.data.rewrites import RewriteOrigin
from vita.rephrasing.answer_text import message_text
from vita.rephrasing.candidates import Candidate, cut_passage, style_order
from vita.rephrasing.checks import CheckSettings, RewriteChecks, copied_share, longest_run, rewrite_text
from vita.rephrasing.collection import ShareBudget
from vita.rephrasing.corpus_copy import KeySet
from vita.rephrasing.result_log import ResultLog, RewriteResult
from vita.rephrasing.styles import STYLES


def test_the_first_style_of_documents_follows_the_weights_and_others_follow_without_repetition() -> None:
    weights = {"faq": 3.0, "table": 1.0, "summary": 1.0}
    orders = [style_order(str(number), weights, seed=0) for number in range(4000)]
    assert all(sorted(order) == sorted(weights) for order in orders)
    shares = {style: sum(order[0] == style for order in orders) / 4000 for style in weights}
    # Standard error sqrt(0.6 * 0.4 / 4000) = 0.0077, sqrt(0.2 * 0.8 / 4000) = 0.0063: four of them.
    assert shares["faq"] == pytest.approx(0.6, abs=0.031) and shares["table"] == pytest.approx(0.2, abs=0.026)
    assert orders[:50] == [style_order(str(number), weights, seed=0) for number in range(50)]
    assert orders[:50] != [style_order(str(number), weights, seed=1) for number in range(50)]


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("short", 100, "short"),
        ("First paragraph.\n\nSecond one is long", 24, "First paragraph."),
        ("One line\nand a second", 12, "One line"),
        ("A sentence. Another begins", 16, "A sentence."),
        ("words without an end", 15, "words without"),
        ("ääää", 5, "ää"),
    ],
)
def test_a_passage_ends_at_the_largest_unit_in_the_second_half_of_the_limit(
    text: str, limit: int, expected: str
) -> None:
    assert cut_passage(text, limit) == expected
    assert len(cut_passage(text, limit).encode()) <= limit


def test_the_share_is_exact_at_its_limit() -> None:
    budget = ShareBudget(0.1, natural_bytes=900)
    assert budget.allows(100) and not budget.allows(101), "100 of 1,000 bytes is a share of exactly 0.1"
    budget.rewrite_bytes = 100
    assert budget.actual == 0.1 and not budget.allows(1) and budget.allows(0)
    assert ShareBudget(0.3, natural_bytes=7 * 10**15).allows(3 * 10**15), "without rounding"
    assert not ShareBudget(0.3, natural_bytes=7 * 10**15).allows(3 * 10**15 + 1)


def test_a_text_is_a_copy_by_its_five_word_runs_without_regard_to_case_and_line_ends() -> None:
    passage = "The old mill by the river grinds flour all day"  # 6 runs of five words
    assert copied_share("THE OLD MILL\nby the river grinds flour all day", passage) == 1.0
    assert copied_share("the old mill by the lake", passage) == 0.5, "1 of its 2 runs"
    assert copied_share("a new text of other words about wheels", passage) == 0.0
    assert copied_share("too short", passage) == 0.0


def test_the_longest_common_run_of_words() -> None:
    assert longest_run("a b c d x b c d e", "b c d e f") == (4, 5)
    assert longest_run("A, b! C", "c b a b c") == (3, 5), "without case and punctuation"
    assert longest_run("", "a b") == (0, 2) and longest_run("x", "a b") == (0, 2)
    assert longest_run("a b new c d", "a b c d") == (2, 4), "a run ends at another word"


PASSAGE = (
    "The old mill by the river was built in 1821 by two brothers from the north. It ground rye and wheat for nine "
    "villages until the railway came, and today a museum shows its wheels."
)
NEW_TEXT = "Q: What does a visitor see? A: Machines of former times, restored by volunteers over several winters."


@pytest.mark.parametrize(
    ("text", "max_copied", "reason"),
    [
        (PASSAGE, 0.7, "copy"),
        (PASSAGE.upper().replace(",", ";"), 1, "copy"),  # equal words, with the check of 5-grams switched off
        (f"Here is the text. {PASSAGE} {NEW_TEXT}", 0.7, "copy"),  # the share of its 5-grams is below 0.7
        (f"{PASSAGE.partition(' and today')[0]} {NEW_TEXT}", 0.7, "copy"),  # 28 of the 34 words
        (f"{PASSAGE.partition('. It')[0]} {NEW_TEXT}", 0.7, None),  # one sentence may be quoted
        (STYLES["faq"].prompt(PASSAGE), 0.7, "echo"),
        (STYLES["faq"].prompt(PASSAGE), 1, "echo"),
        (STYLES["faq"].instructions, 0.7, "echo"),
        (f"{STYLES['faq'].base_prompt('')} {NEW_TEXT}", 0.7, "echo"),
        (f"Keep names, numbers and dates. {NEW_TEXT}", 0.7, None),
        (NEW_TEXT, 0.7, None),
    ],
)
def test_copies_of_the_source_and_echoes_of_the_prompt_are_dropped(
    text: str, max_copied: float, reason: str | None
) -> None:
    checks = RewriteChecks(CheckSettings(10, max_copied, check_form=False), KeySet([]), KeySet([]))
    origin = RewriteOrigin("a", "s", "hash")
    candidate = Candidate("s/a#faq", STYLES["faq"], PASSAGE, Document("a", "", source="s"), origin, len(PASSAGE), 0)
    problem = checks.problem(candidate, RewriteResult(text, "stop"), text)
    assert (problem and problem[0]) == reason


@pytest.mark.parametrize(
    ("style", "text", "expected"),
    [
        ("table", "Mills:\n\n| name | year |\n|---|---|\n| North | 1890 |", True),
        ("table", "name | year\n--- | ---", True),
        ("table", "a | b\nno table", False),
        ("table", "plain text\nof two lines", False),
        ("faq", "Q: Who?\nA: Ann.", True),
        ("faq", "谁？安。", True),
        ("faq", "Only a question?", False),
        ("faq", "No question.", False),
        ("tutorial", "anything", True),
    ],
)
def test_a_style_recognizes_its_form(style: str, text: str, expected: bool) -> None:
    assert STYLES[style].has_form(text) is expected


def test_prompts_contain_the_passage_and_ask_for_facts_of_the_text() -> None:
    for style in STYLES.values():
        assert style.prompt("PASSAGE").endswith("\n\nPASSAGE") and "only facts from the text" in style.prompt("x")
        assert style.base_prompt("PASSAGE").startswith("Text:\n\nPASSAGE\n\n")


def test_reasoning_before_a_rewrite_is_removed_and_line_ends_are_normalized() -> None:
    assert rewrite_text(RewriteResult("<think>\nHow?\n</think>\n\nA\r\nB ", "stop")) == "A\nB"
    assert rewrite_text(RewriteResult("A <think>b</think>", "stop")) == "A <think>b</think>"
    assert rewrite_text(RewriteResult("hmm, a\nplan</think>\nHere", "stop")) == "Here"
    assert (
        rewrite_text(RewriteResult("The tag </think> ends it.", "stop"), "of </think>") == "The tag </think> ends it."
    )
    assert rewrite_text(RewriteResult("<think>no end", "stop")) == ""
    analysis, final = "<|channel|>analysis<|message|>How?<|end|>", "<|start|>assistant<|channel|>final<|message|>A\nB"
    for text in (
        "<thinking>How?</thinking>\n<reasoning>So.</reasoning>A\nB",
        "<Thinking>\nHow?\n</Thinking>\nA\nB",
        "How?</reasoning> A\nB",
        "[THINK]How?[/THINK]A\nB",
        "<|START_THINKING|>How?<|END_THINKING|><|START_RESPONSE|>A\nB<|END_RESPONSE|>",
        "How?<|END_THINKING|>A\nB",
        "<|channel>thought\nHow?<channel|>A\nB",
        f"{analysis}{final}",
        f"<|start|>assistant{analysis}{final}<|return|>",
        f"{final}<|return|>",
        "analysisWe need a list.assistantfinalA\nB",
    ):
        assert rewrite_text(RewriteResult(text, "stop")) == "A\nB", text
    assert rewrite_text(RewriteResult(analysis, "stop")) == rewrite_text(RewriteResult("<reasoning>no", "stop")) == ""
    for text in ("analysis of data", "Channels begin with <|channel|>final.", "<thinker>A</thinker>"):
        assert rewrite_text(RewriteResult(text, "stop")) == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("A", "A"),
        (None, ""),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "How?"}]}, {"type": "text", "text": "A"}], "A"),
        ([{"type": "text", "text": "A"}, {"type": "text", "text": " B"}], "A B"),
        ([{"type": "thinking", "thinking": "How?"}], ""),
        ({"text": "A"}, "`content` of the type dict"),
        (7, "`content` of the type int"),
        (["A"], "a part of `content` of the type str"),
        ([{"type": "text", "text": None}], "a part of `content` with the type 'text' and the fields type, text"),
        (
            [{"type": "image_url", "image_url": "u"}],
            "a part of `content` with the type 'image_url' and the fields type",
        ),
    ],
)
def test_the_text_of_a_message_is_that_of_its_parts(content: Any, expected: str) -> None:
    message = {"role": "assistant", "content": content}
    if "`content`" not in expected:
        assert message_text(message) == expected
        return
    with pytest.raises(ValueError, match=re.escape(expected)):
        message_text(message)


def test_stored_results_are_read_again_and_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    log = ResultLog(path)
    results = {"a#faq": RewriteResult("Ä\n", "stop", source_bytes=3), "b#faq": RewriteResult("", "refused", "too long")}
    for id, result in results.items():
        log.add(id, result)
    path.write_bytes(path.read_bytes() + b'\n{"id":"c#faq","text":"x')
    again = ResultLog(path)
    assert {id: again[id] for id in results} == results and "c#faq" not in again and again.num_earlier == 2
    again.add("c#faq", results["a#faq"])
    assert ResultLog(path)["c#faq"] == results["a#faq"] and log["b#faq"] == results["b#faq"]
