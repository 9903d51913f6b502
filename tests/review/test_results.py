"""What comes of a review: figures worked by hand, judges beside people, and pairs that may be learnt from."""

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

NEW, OLD = ReviewedModel("n" * 64, "new"), ReviewedModel("o" * 64, "old")


def review(
    tmp_path: Path, votes: list[dict[str, object]], *, kind: Kind = "pairwise"
) -> tuple[ReviewStore, ReviewTask]:
    """A review with one item for each dict of rater -> choice (or levels)."""
    desk = ReviewStore(Ledger(tmp_path / "ledger.db"))
    answers = (ReviewAnswer(NEW.digest, "a short one"), ReviewAnswer(OLD.digest, "a much longer one it is"))
    some = answers if kind == "pairwise" else answers[:1]
    given = [ReviewItem(str(n), (Message("user", f"Question {n}?"),), some) for n in range(len(votes))]
    task = desk.create("t", kind=kind, guideline=default(kind), items=given, models=[NEW, OLD], raters=3)
    for item, of_item in zip(desk.items(task), votes, strict=True):
        for rater, said in of_item.items():
            desk.enter(task, rater)
            if isinstance(said, str):
                desk.rate(task, item, rater, choice=said, milliseconds=1000)
            else:
                desk.rate(task, item, rater, criteria=said)  # type: ignore[arg-type]
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
    found = results(*review(tmp_path, VOTES)).figures()
    assert found["preferred"].value == pytest.approx((1 + 1 + 1 + 0.5 + 0 + 0 + 1 + 0.5 + 0.5) / 9)
    assert found["preferred"].low < 0.61 < found["preferred"].high
    assert found["both_bad"].value == pytest.approx(2 / 11)
    assert found["tie"].value == pytest.approx(3 / 11)
    assert found["skipped"].value == pytest.approx(1 / 12)
    assert found["raw_agreement"].value == pytest.approx(4 / 5)
    assert found["win_probability/old"].value == pytest.approx(found["preferred"].value)
    assert 0 < found["alpha"].value < 1


def test_always_taking_the_left_answer_shows_as_a_position_bias(tmp_path: Path) -> None:
    desk, task = review(tmp_path, [{} for _ in range(40)])
    desk.enter(task, "ann")
    for item in desk.items(task):
        desk.rate(task, item, "ann", choice="ab"[task.order(item, "ann")[0]])
    found = results(desk, task).figures()
    assert found["left"].value == 1.0 and found["left"].low > 0.9
    assert found["preferred"].low < 0.5 < found["preferred"].high


def test_a_rubric_gives_means_and_agreement_for_each_criterion(tmp_path: Path) -> None:
    levels = [{one.name: level for one in RUBRIC} for level in (1, 3, 5)]
    votes: list[dict[str, object]] = [{"ann": one, "bob": one} for one in levels]
    found = results(*review(tmp_path, votes, kind="rubric")).figures()
    assert found["clarity"].value == pytest.approx(3.0) and (found["clarity"].low, found["clarity"].high) == (1, 5)
    assert found["tone/alpha"].value == 1.0


def test_pairs_leave_out_ties_and_what_is_bad_on_both_sides(tmp_path: Path) -> None:
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


def test_exported_pairs_can_be_learnt_from(tmp_path: Path) -> None:
    from vita.data.sources.read import Source, preferences

    rows = results(*review(tmp_path, VOTES)).pairs()
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    found = list(preferences(Source.model_validate(str(path))))
    assert [one.chosen[0].content for one in found][:1] == ["a short one"]
    assert [one.margin for one in found] == [row["margin"] for row in rows]


def test_judges_vote_beside_people_and_never_among_them(tmp_path: Path) -> None:
    desk, task = review(tmp_path, [{"ann": "a", "bob": "a"}, {"ann": "b", "bob": "b"}, {"ann": "a", "bob": "b"}])
    before = results(desk, task).figures()
    assert vote(desk, task, "rule:shorter", JUDGES["shorter"], kind="rule") == 3
    assert vote(desk, task, "rule:shorter", JUDGES["shorter"], kind="rule") == 0
    found = results(desk, task).figures()
    assert found["preferred"] == before["preferred"]
    assert found["rule:shorter/raw_agreement"].value == 0.5 and found["rule:shorter/raw_agreement"].n == 2


def test_rules_choose_as_they_say() -> None:
    def item(first: str, second: str, *, finish: str = "stop") -> ReviewItem:
        return ReviewItem("1", (), (ReviewAnswer("a", first), ReviewAnswer("b", second, finish)))

    assert JUDGES["shorter"](item("", "words")) == "b" and JUDGES["shorter"](item("a", "bb")) == "a"
    assert JUDGES["longer"](item("a", "bb")) == "b" and JUDGES["longer"](item("a", "b")) == "tie"
    assert JUDGES["no_loops"](item("on and on and on and on and on", "It is a cat and it has fur.")) == "b"
    assert JUDGES["no_loops"](item("Fine.", "Fine.", finish="length")) == "a"


def test_a_model_that_always_says_a_makes_ties(tmp_path: Path) -> None:
    from vita.data.tokens.chat_template import ChatTemplate
    from vita.infer.engine import Engine, TextScore
    from vita.testing import byte_tokenizer, tiny_model

    engine = Engine(tiny_model(context=256), byte_tokenizer(), template=ChatTemplate.default())
    one = ReviewItem("1", (Message("user", "Q"),), (ReviewAnswer("a", "good"), ReviewAnswer("b", "bad")))
    assert ModelJudge(engine)(one) in ("a", "b", "tie")
    engine.score = lambda pairs: [TextScore((-0.1,), True), TextScore((-3.0,), False)]  # type: ignore[method-assign]
    assert ModelJudge(engine)(one) == "tie"


def test_the_report_can_be_read_by_people_and_gates(tmp_path: Path) -> None:
    desk, task = review(tmp_path, VOTES)
    vote(desk, task, "rule:longer", JUDGES["longer"], kind="rule")
    folder = tmp_path / "report"
    folder.mkdir()
    facts = results(desk, task).write(folder)
    report = json.loads((folder / "report.json").read_text())
    assert report["model"] == NEW.digest and report["details"]["task"]["clusters"] == "prompts"
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


def test_prompts_come_from_lines_rows_and_the_world(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("What is a cat?\n\nWhat is hail?\n")
    (tmp_path / "p.jsonl").write_bytes(
        orjson.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]})
    )
    found = read_prompts(str(tmp_path / "p.txt"))
    assert [one[0].content for one in found.values()] == ["What is a cat?", "What is hail?"]
    assert next(iter(read_prompts(str(tmp_path / "p.jsonl")).values())) == (Message("user", "Hi"),)
    assert "cat" in read_prompts("world")
    some, probability = sample_prompts(found, 1, seed=0)
    assert len(some) == 1 and probability == 0.5


def test_every_pair_of_versions_answers_every_prompt() -> None:
    asked = {"1": (Message("user", "Q"),), "2": (Message("user", "R"),)}
    said = {name * 8: [(f"{name}{n}", "stop", n) for n in range(2)] for name in "xyz"}
    found = items(asked, said, kind="pairwise", probability=1.0)
    assert [tuple(answer.text for answer in item.answers) for item in found[:3]] == [
        ("x0", "y0"), ("x0", "z0"), ("y0", "z0")
    ]  # fmt: skip
    assert len({item.item for item in found}) == len(found) == 6
    assert len(items(asked, said, kind="rubric", probability=1.0)) == 6
    with pytest.raises(DataError, match="at least two versions"):
        items(asked, {"x": said["x" * 8]}, kind="pairwise", probability=1.0)


def test_a_version_that_nobody_has_compared_yet_does_not_hold_up_the_others(tmp_path: Path) -> None:
    desk = ReviewStore(Ledger(tmp_path / "ledger.db"))
    third = ReviewedModel("t" * 64, "third")
    asked = {"1": (Message("user", "Q"),)}
    said = {version.digest: [(f"by {version.name}", "stop", 0)] for version in (NEW, OLD, third)}
    task = desk.create(
        "t",
        kind="pairwise",
        guideline=default("pairwise"),
        items=items(asked, said, kind="pairwise", probability=1.0),
        models=[NEW, OLD, third],
    )
    desk.enter(task, "ann")
    desk.rate(task, desk.items(task)[0], "ann", choice="a")
    found = results(desk, task).figures()
    assert "win_probability/old" in found and "win_probability/third" not in found
