"""The desk: blind and shuffled, several raters, corrections that overwrite nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from vita.data.records import Message
from vita.review.desk import ReviewAnswer, ReviewedModel, ReviewItem, ReviewStore, ReviewTask
from vita.review.guideline import RUBRIC, Kind, default
from vita.spine.errors import ConfigError, DataError
from vita.spine.ledger import Ledger

NEW, OLD = ReviewedModel("n" * 64, "cat/dpo"), ReviewedModel("o" * 64, "cat/sft")


@pytest.fixture
def desk(any_ledger: Ledger) -> ReviewStore:
    return ReviewStore(any_ledger)


def pairs(count: int) -> list[ReviewItem]:
    return [
        ReviewItem(
            f"{n}",
            (Message("user", f"What is {n}?"),),
            (ReviewAnswer(NEW.digest, f"new {n}"), ReviewAnswer(OLD.digest, f"old {n}")),
            0.5,
        )
        for n in range(count)
    ]


def task(desk: ReviewStore, *, count: int = 6, raters: int = 2, kind: Kind = "pairwise", name: str = "t") -> ReviewTask:
    items = pairs(count)
    if kind == "rubric":
        items = [ReviewItem(item.item, item.prompt, item.answers[:1]) for item in items]
    return desk.create(name, kind=kind, guideline=default(kind), items=items, models=[NEW, OLD], raters=raters, seed=3)


def test_a_rating_keeps_what_cannot_be_rebuilt_later(desk: ReviewStore) -> None:
    one = task(desk)
    desk.enter(one, "ann")
    item = desk.next(one, "ann")
    assert item is not None
    rating = desk.rate(one, item, "ann", choice="a", rationale=" clear ", milliseconds=5200)
    assert rating.shown_order == list(one.order(item, "ann"))
    assert (rating.blind, rating.guideline_version) == (True, default("pairwise").version)
    assert (rating.sampling_probability, rating.milliseconds, rating.rater_kind) == (0.5, 5200, "human")
    assert rating.rationale == "clear" and rating.supersedes is None


def test_a_correction_supersedes_and_overwrites_nothing(desk: ReviewStore) -> None:
    one = task(desk)
    desk.enter(one, "ann")
    item = desk.items(one)[0]
    first = desk.rate(one, item, "ann", choice="a")
    second = desk.rate(one, item, "ann", choice="b")
    assert second.supersedes == first.id
    assert [rating.choice for rating in desk.ratings(one)] == ["b"]
    assert [rating.choice for rating in desk.ratings(one, superseded=True)] == ["a", "b"]
    assert desk.last(one, "ann") == item


def test_each_rater_has_orders_of_their_own_that_never_change(desk: ReviewStore) -> None:
    one = task(desk, count=60)
    orders = {rater: [one.order(item, rater) for item in desk.items(one)] for rater in ("ann", "bob")}
    assert orders["ann"] != orders["bob"]
    assert orders["ann"] == [desk.task("t").order(item, "ann") for item in desk.items(one)]
    assert 15 < Counter(orders["ann"])[(0, 1)] < 45
    queues = [[item.item for item in desk.queue(one, rater)] for rater in ("ann", "bob")]
    assert queues[0] != queues[1] and sorted(queues[0]) == sorted(queues[1])


def test_an_item_is_done_when_enough_people_rated_it_and_begun_ones_come_first(desk: ReviewStore) -> None:
    one = task(desk, count=3, raters=2)
    for rater in ("ann", "bob", "cat"):
        desk.enter(one, rater)
    desk.enter(one, "rule:shorter", kind="rule")
    first = desk.items(one)[1]
    desk.rate(one, first, "rule:shorter", choice="a")
    desk.rate(one, first, "ann", choice="a")
    assert desk.next(one, "bob") == first
    desk.rate(one, first, "bob", choice="a")
    assert first not in desk.queue(one, "cat")
    assert desk.progress(one, "cat") == (0, 2) and desk.progress(one, "bob") == (1, 3)


def test_tokens_are_of_one_rater_and_one_task_and_judges_have_none(desk: ReviewStore) -> None:
    one, two = task(desk), task(desk, name="u")
    token = desk.enter(one, "ann")
    assert token == desk.enter(one, "ann") and desk.rater_of(one, token) == "ann"
    desk.enter(two, "ann")
    assert desk.rater_of(two, token) is None and desk.rater_of(one, "") is None
    assert desk.rater_of(one, desk.enter(one, "rule:x", kind="rule")) is None
    assert one.secret not in repr(one)


def test_a_rubric_wants_every_criterion_from_1_to_5(desk: ReviewStore) -> None:
    one = task(desk, kind="rubric")
    desk.enter(one, "ann")
    item, levels = desk.items(one)[0], {criterion.name: 4 for criterion in RUBRIC}
    assert desk.rate(one, item, "ann", criteria=levels).criteria == levels
    with pytest.raises(DataError, match="a level for each of clarity, relevance, tone, boundaries"):
        desk.rate(one, item, "ann", criteria={"clarity": 3})
    with pytest.raises(DataError, match=r"review t\.tone: expected 1 to 5, got 6"):
        desk.rate(one, item, "ann", criteria={**levels, "tone": 6})


def test_what_is_wrong_is_told(desk: ReviewStore) -> None:
    with pytest.raises(ConfigError, match="there is no task `t`"):
        desk.task("t")
    one = task(desk)
    with pytest.raises(ConfigError, match="a task of this name exists"):
        task(desk)
    with pytest.raises(ConfigError, match="did you mean `t`|one of t"):
        desk.task("tt")
    with pytest.raises(DataError, match="'ann' is not a rater of this task"):
        desk.rate(one, desk.items(one)[0], "ann", choice="a")
    desk.enter(one, "ann")
    with pytest.raises(ConfigError, match="`c` is not known"):
        desk.rate(one, desk.items(one)[0], "ann", choice="c")
    with pytest.raises(DataError, match="expected one of a, b"):
        desk.rate(one, desk.items(one)[0], "ann")
    with pytest.raises(ConfigError, match="a name of 1 to 200"):
        desk.enter(one, " ")
