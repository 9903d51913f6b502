"""Results of a review: figures calculated by hand, judges, and preference pairs for training."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
import zstandard

from vita.data.records import Message
from vita.review.answers import items, read_prompts, sample_prompts
from vita.review.desk import ReviewAnswer, ReviewedModel, ReviewItem, ReviewStore, ReviewTask
from vita.review.guideline import RUBRIC, Kind, default
from vita.review.judges import JUDGES, ModelJudge, vote
from vita.review.results import ReviewResults
from vita.spine.errors import DataError
from vita.spine.ledger import Ledger

NEW_MODEL, OLD_MODEL = ReviewedModel("n" * 64, "new"), ReviewedModel("o" * 64, "old")


def review(
    tmp_path: Path, votes: list[dict[str, object]], *, kind: Kind = "pairwise"
) -> tuple[ReviewStore, ReviewTask]:
    """Create a review with one item for each dict of rater -> choice (or levels)."""
    desk = ReviewStore(Ledger(tmp_path / "ledger.db"))
    answers = (ReviewAnswer(NEW_MODEL.digest, "a short one"), ReviewAnswer(OLD_MODEL.digest, "a much longer one it is"))
    item_answers = answers if kind == "pairwise" else answers[:1]
    review_items = [ReviewItem(str(n), (Message("user", f"Question {n}?"),), item_answers) for n in range(len(votes))]
    task = desk.create(
        "t", kind=kind, guideline=default(kind), items=review_items, models=[NEW_MODEL, OLD_MODEL], raters=3
    )
    for item, item_votes in zip(desk.items(task), votes, strict=True):
        for rater, rating in item_votes.items():
            desk.enter(task, rater)
            if isinstance(rating, str):
                desk.rate(task, item, rater, choice=rating, milliseconds=1000)
            else:
                desk.rate(task, item, rater, criteria=rating)  # type: ignore[arg-type]
    return desk, task


def results(desk: ReviewStore, task: ReviewTask) -> ReviewResults:
    return ReviewResults(task, desk.items(task), desk.ratings(task))


VOTES: list[dict[str, object]] = [
    {"ann": "a", "bob": "a"},
    {"ann": "a", "bob": "tie"},
    {"ann": "b", "bob": "b"},
    {"ann": "both_bad", "bob": "both_bad"},
    {"ann": "a", "bob": "skip"},
    {"ann": "tie", "bob": "tie"},
]


def test_figures_agree_with_a_count_by_hand(tmp_path: Path) -> None:
    figures = results(*review(tmp_path, VOTES)).figures()
    assert figures["preferred"].value == pytest.approx((1 + 1 + 1 + 0.5 + 0 + 0 + 1 + 0.5 + 0.5) / 9)
    assert figures["preferred"].low < 0.61 < figures["preferred"].high
    assert figures["both_bad"].value == pytest.approx(2 / 11)
    assert figures["tie"].value == pytest.approx(3 / 11)
    assert figures["skipped"].value == pytest.approx(1 / 12)
    assert figures["raw_agreement"].value == pytest.approx(4 / 5)
    assert figures["win_probability/old"].value == pytest.approx(figures["preferred"].value)
    assert 0 < figures["alpha"].value < 1


def test_a_rater_who_always_prefers_the_left_answer_has_a_position_bias(tmp_path: Path) -> None:
    desk, task = review(tmp_path, [{} for _ in range(40)])
    desk.enter(task, "ann")
    for item in desk.items(task):
        desk.rate(task, item, "ann", choice="ab"[task.order(item, "ann")[0]])
    figures = results(desk, task).figures()
    assert figures["left"].value == 1.0 and figures["left"].low > 0.9
    assert figures["preferred"].low < 0.5 < figures["preferred"].high


def test_a_rubric_gives_means_and_agreement_for_each_criterion(tmp_path: Path) -> None:
    levels = [{criterion.name: level for criterion in RUBRIC} for level in (1, 3, 5)]
    votes: list[dict[str, object]] = [{"ann": ratings, "bob": ratings} for ratings in levels]
    figures = results(*review(tmp_path, votes, kind="rubric")).figures()
    assert figures["clarity"].value == pytest.approx(3.0) and (figures["clarity"].low, figures["clarity"].high) == (
        1,
        5,
    )
    assert figures["tone/alpha"].value == 1.0


def test_pairs_exclude_ties_and_items_with_two_bad_answers(tmp_path: Path) -> None:
    votes = [*VOTES, {"ann": "a", "bob": "both_bad"}, {"ann": "b", "bob": "b", "cid": "a"}]
    rows = results(*review(tmp_path, votes)).pairs()
    assert [(row["id"], row["margin"]) for row in rows] == [
        ("t/0", 1.0),
        ("t/1", 0.5),
        ("t/2", 1.0),
        ("t/4", 1.0),
        ("t/7", pytest.approx(1 / 3)),
    ]
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "a short one"}]
    assert rows[2]["rejected"][0]["content"] == "a short one"
    assert rows[0]["prompt"] == [{"role": "user", "content": "Question 0?"}]


def test_exported_pairs_can_be_read_as_preference_data(tmp_path: Path) -> None:
    from vita.data.sources.read import Source, preferences

    rows = results(*review(tmp_path, VOTES)).pairs()
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    pairs = list(preferences(Source.model_validate(str(path))))
    assert [pair.chosen[0].content for pair in pairs][:1] == ["a short one"]
    assert [pair.margin for pair in pairs] == [row["margin"] for row in rows]


def test_votes_of_judges_are_counted_separately_from_people(tmp_path: Path) -> None:
    desk, task = review(tmp_path, [{"ann": "a", "bob": "a"}, {"ann": "b", "bob": "b"}, {"ann": "a", "bob": "b"}])
    figures_before = results(desk, task).figures()
    assert vote(desk, task, "rule:shorter", JUDGES["shorter"], kind="rule") == 3
    assert vote(desk, task, "rule:shorter", JUDGES["shorter"], kind="rule") == 0
    figures = results(desk, task).figures()
    assert figures["preferred"] == figures_before["preferred"]
    assert figures["rule:shorter/raw_agreement"].value == 0.5 and figures["rule:shorter/raw_agreement"].n == 2


def test_rule_judges_follow_their_rules() -> None:
    def item(first_answer: str, second_answer: str, *, finish: str = "stop") -> ReviewItem:
        return ReviewItem("1", (), (ReviewAnswer("a", first_answer), ReviewAnswer("b", second_answer, finish)))

    assert JUDGES["shorter"](item("", "words")) == "b" and JUDGES["shorter"](item("a", "bb")) == "a"
    assert JUDGES["longer"](item("a", "bb")) == "b" and JUDGES["longer"](item("a", "b")) == "tie"
    assert JUDGES["no_loops"](item("on and on and on and on and on", "It is a cat and it has fur.")) == "b"
    assert JUDGES["no_loops"](item("Fine.", "Fine.", finish="length")) == "a"


def test_a_model_judge_that_always_prefers_the_first_answer_gives_ties(tmp_path: Path) -> None:
    from vita.data.tokens.chat_template import ChatTemplate
    from vita.infer.engine import Engine, TextScore
    from vita.testing import byte_tokenizer, tiny_model

    engine = Engine(tiny_model(context=256), byte_tokenizer(), template=ChatTemplate.default())
    item = ReviewItem("1", (Message("user", "Q"),), (ReviewAnswer("a", "good"), ReviewAnswer("b", "bad")))
    assert ModelJudge(engine)(item) in ("a", "b", "tie")
    engine.score = lambda pairs: [TextScore((-0.1,), True), TextScore((-3.0,), False)]  # type: ignore[method-assign]
    assert ModelJudge(engine)(item) == "tie"


def test_the_report_can_be_read_by_people_and_gates(tmp_path: Path) -> None:
    desk, task = review(tmp_path, VOTES)
    vote(desk, task, "rule:longer", JUDGES["longer"], kind="rule")
    folder = tmp_path / "report"
    folder.mkdir()
    facts = results(desk, task).write(folder)
    report = json.loads((folder / "report.json").read_text())
    assert report["model"] == NEW_MODEL.digest and report["details"]["task"]["clusters"] == "prompts"
    assert report["figures"]["review"]["review"]["preferred"]["value"] == pytest.approx(facts["review/preferred"], 1e-5)
    assert set(report["figures"]["strengths"]) == {"new", "old"}
    rows = [orjson.loads(line) for line in zstandard.decompress((folder / "items.jsonl.zst").read_bytes()).splitlines()]
    assert [row.get("preferred") for row in rows] == [True, None, False, None, True, None]
    text = (folder / "report.md").read_text()
    for word in ("Ratings by people", "Strength", "rule:longer", "median seconds", "Guideline"):
        assert word in text


def test_a_review_without_votes_by_people_has_no_result(tmp_path: Path) -> None:
    desk, task = review(tmp_path, [{}])
    vote(desk, task, "rule:longer", JUDGES["longer"], kind="rule")
    with pytest.raises(DataError, match="has no ratings by people yet"):
        results(desk, task).figures()


def test_prompts_come_from_text_lines_json_rows_and_the_world(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("What is a cat?\n\nWhat is hail?\n")
    (tmp_path / "p.jsonl").write_bytes(
        orjson.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]})
    )
    prompts = read_prompts(str(tmp_path / "p.txt"))
    assert [messages[0].content for messages in prompts.values()] == ["What is a cat?", "What is hail?"]
    assert next(iter(read_prompts(str(tmp_path / "p.jsonl")).values())) == (Message("user", "Hi"),)
    assert "cat" in read_prompts("world")
    sample, probability = sample_prompts(prompts, 1, seed=0)
    assert len(sample) == 1 and probability == 0.5


def test_every_pair_of_versions_answers_every_prompt() -> None:
    prompts = {"1": (Message("user", "Q"),), "2": (Message("user", "R"),)}
    answers = {name * 8: [(f"{name}{n}", "stop", n) for n in range(2)] for name in "xyz"}
    review_items = items(prompts, answers, kind="pairwise", probability=1.0)
    assert [tuple(answer.text for answer in item.answers) for item in review_items[:3]] == [
        ("x0", "y0"), ("x0", "z0"), ("y0", "z0")
    ]  # fmt: skip
    assert len({item.item for item in review_items}) == len(review_items) == 6
    assert len(items(prompts, answers, kind="rubric", probability=1.0)) == 6
    with pytest.raises(DataError, match="at least two versions"):
        items(prompts, {"x": answers["x" * 8]}, kind="pairwise", probability=1.0)


def test_a_version_without_comparisons_does_not_affect_the_others(tmp_path: Path) -> None:
    desk = ReviewStore(Ledger(tmp_path / "ledger.db"))
    third_model = ReviewedModel("t" * 64, "third")
    prompts = {"1": (Message("user", "Q"),)}
    answers = {version.digest: [(f"by {version.name}", "stop", 0)] for version in (NEW_MODEL, OLD_MODEL, third_model)}
    task = desk.create(
        "t",
        kind="pairwise",
        guideline=default("pairwise"),
        items=items(prompts, answers, kind="pairwise", probability=1.0),
        models=[NEW_MODEL, OLD_MODEL, third_model],
    )
    desk.enter(task, "ann")
    desk.rate(task, desk.items(task)[0], "ann", choice="a")
    figures = results(desk, task).figures()
    assert "win_probability/old" in figures and "win_probability/third" not in figures
