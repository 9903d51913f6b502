"""The review store: blind and shuffled items, several raters, and corrections that overwrite nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from vita.data.records import Message
from vita.review.desk import ReviewAnswer, ReviewedModel, ReviewItem, ReviewStore, ReviewTask
from vita.review.guideline import RUBRIC, Kind, default
from vita.spine.errors import ConfigError, DataError
from vita.spine.ledger import Ledger

NEW_MODEL, OLD_MODEL = ReviewedModel("n" * 64, "cat/dpo"), ReviewedModel("o" * 64, "cat/sft")


@pytest.fixture
def desk(any_ledger: Ledger) -> ReviewStore:
    return ReviewStore(any_ledger)


def pairs(count: int) -> list[ReviewItem]:
    return [
        ReviewItem(
            f"{n}",
            (Message("user", f"What is {n}?"),),
            (ReviewAnswer(NEW_MODEL.digest, f"new {n}"), ReviewAnswer(OLD_MODEL.digest, f"old {n}")),
            0.5,
        )
        for n in range(count)
    ]


def task(desk: ReviewStore, *, count: int = 6, raters: int = 2, kind: Kind = "pairwise", name: str = "t") -> ReviewTask:
    items = pairs(count)
    if kind == "rubric":
        items = [ReviewItem(item.item, item.prompt, item.answers[:1]) for item in items]
    return desk.create(
        name, kind=kind, guideline=default(kind), items=items, models=[NEW_MODEL, OLD_MODEL], raters=raters, seed=3
    )


def test_a_rating_records_its_order_time_and_guideline(desk: ReviewStore) -> None:
    review_task = task(desk)
    desk.enter(review_task, "ann")
    item = desk.next(review_task, "ann")
    assert item is not None
    rating = desk.rate(review_task, item, "ann", choice="a", rationale=" clear ", milliseconds=5200)
    assert rating.shown_order == list(review_task.order(item, "ann"))
    assert (rating.blind, rating.guideline_version) == (True, default("pairwise").version)
    assert (rating.sampling_probability, rating.milliseconds, rating.rater_kind) == (0.5, 5200, "human")
    assert rating.rationale == "clear" and rating.supersedes is None


def test_a_correction_supersedes_a_rating_and_keeps_it(desk: ReviewStore) -> None:
    review_task = task(desk)
    desk.enter(review_task, "ann")
    item = desk.items(review_task)[0]
    first_rating = desk.rate(review_task, item, "ann", choice="a")
    second_rating = desk.rate(review_task, item, "ann", choice="b")
    assert second_rating.supersedes == first_rating.id
    assert [rating.choice for rating in desk.ratings(review_task)] == ["b"]
    assert [rating.choice for rating in desk.ratings(review_task, superseded=True)] == ["a", "b"]
    assert desk.last(review_task, "ann") == item


def test_each_rater_has_a_separate_fixed_order_of_items_and_answers(desk: ReviewStore) -> None:
    review_task = task(desk, count=60)
    orders = {rater: [review_task.order(item, rater) for item in desk.items(review_task)] for rater in ("ann", "bob")}
    assert orders["ann"] != orders["bob"]
    assert orders["ann"] == [desk.task("t").order(item, "ann") for item in desk.items(review_task)]
    assert 15 < Counter(orders["ann"])[(0, 1)] < 45
    queues = [[item.item for item in desk.queue(review_task, rater)] for rater in ("ann", "bob")]
    assert queues[0] != queues[1] and sorted(queues[0]) == sorted(queues[1])


def test_an_item_is_done_after_enough_ratings_and_partly_rated_items_come_first(desk: ReviewStore) -> None:
    review_task = task(desk, count=3, raters=2)
    for rater in ("ann", "bob", "cat"):
        desk.enter(review_task, rater)
    desk.enter(review_task, "rule:shorter", kind="rule")
    first_item = desk.items(review_task)[1]
    desk.rate(review_task, first_item, "rule:shorter", choice="a")
    desk.rate(review_task, first_item, "ann", choice="a")
    assert desk.next(review_task, "bob") == first_item
    desk.rate(review_task, first_item, "bob", choice="a")
    assert first_item not in desk.queue(review_task, "cat")
    assert desk.progress(review_task, "cat") == (0, 2) and desk.progress(review_task, "bob") == (1, 3)


def test_a_token_belongs_to_one_rater_and_one_task_and_judges_have_none(desk: ReviewStore) -> None:
    review_task, other_task = task(desk), task(desk, name="u")
    token = desk.enter(review_task, "ann")
    assert token == desk.enter(review_task, "ann") and desk.rater_of(review_task, token) == "ann"
    desk.enter(other_task, "ann")
    assert desk.rater_of(other_task, token) is None and desk.rater_of(review_task, "") is None
    assert desk.rater_of(review_task, desk.enter(review_task, "rule:x", kind="rule")) is None
    assert review_task.secret not in repr(review_task)


def test_a_rubric_needs_a_level_from_1_to_5_for_every_criterion(desk: ReviewStore) -> None:
    review_task = task(desk, kind="rubric")
    desk.enter(review_task, "ann")
    item, levels = desk.items(review_task)[0], {criterion.name: 4 for criterion in RUBRIC}
    assert desk.rate(review_task, item, "ann", criteria=levels).criteria == levels
    with pytest.raises(DataError, match="a level for each of clarity, relevance, tone, boundaries"):
        desk.rate(review_task, item, "ann", criteria={"clarity": 3})
    with pytest.raises(DataError, match=r"review t\.tone: expected 1 to 5, got 6"):
        desk.rate(review_task, item, "ann", criteria={**levels, "tone": 6})


def test_invalid_tasks_raters_and_choices_are_refused(desk: ReviewStore) -> None:
    with pytest.raises(ConfigError, match="there is no task `t`"):
        desk.task("t")
    review_task = task(desk)
    with pytest.raises(ConfigError, match="a task of this name exists"):
        task(desk)
    with pytest.raises(ConfigError, match="did you mean `t`|one of t"):
        desk.task("tt")
    with pytest.raises(DataError, match="'ann' is not a rater of this task"):
        desk.rate(review_task, desk.items(review_task)[0], "ann", choice="a")
    desk.enter(review_task, "ann")
    with pytest.raises(ConfigError, match="`c` is not known"):
        desk.rate(review_task, desk.items(review_task)[0], "ann", choice="c")
    with pytest.raises(DataError, match="expected one of a, b"):
        desk.rate(review_task, desk.items(review_task)[0], "ann")
    with pytest.raises(ConfigError, match="a name of 1 to 200"):
        desk.enter(review_task, " ")
