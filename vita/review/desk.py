"""The desk: tasks, who rates them, what is shown to whom in which order, and every rating, in the ledger.

    reviews = ReviewStore(ledger)
    task = reviews.create("dpo against sft", kind="pairwise", guideline=default("pairwise"), items=items, models=models)
    item = reviews.next(task, "ann")
    reviews.rate(task, item, "ann", choice="a", milliseconds=5200)

A rating keeps what cannot be rebuilt later: the order shown, whether it was blind, the guideline's version, how likely
the item was to be drawn, and how long it took. A correction is a new rating that names the one it supersedes.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import sqlalchemy as sa

from vita.data.records import Message
from vita.review.guideline import CHOICES, LEVELS, Guideline, Kind
from vita.spine.config import unknown_name
from vita.spine.errors import ConfigError, DataError
from vita.spine.ledger import Ledger
from vita.spine.tables import table

RaterKind = Literal["human", "judge", "rule"]

_tasks = table(
    "review_tasks",
    string="name kind guideline guideline_version secret",
    integer="raters",
    big_integer="seed",
    real="at",
    json="criteria models settings",
)
_raters = table("review_raters", string="rater kind", integer="task", real="at")
_items = table("review_items", string="item", integer="task", real="probability", json="prompt answers")
_ratings = table(
    "ratings",
    string="rater rater_kind choice rationale guideline_version",
    integer="item milliseconds supersedes",
    real="sampling_probability at",
    boolean="blind",
    json="criteria shown_order",
)


@dataclass(frozen=True, slots=True)
class ReviewedModel:
    """A model under review: its digest and its name."""

    digest: str
    name: str


@dataclass(frozen=True, slots=True)
class ReviewAnswer:
    """The answer of a model; `model` is the digest of the version."""

    model: str
    text: str
    finish: str = "stop"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A prompt with one answer (rubric) or two, `a` and `b` (pairwise)."""

    item: str
    prompt: tuple[Message, ...]
    answers: tuple[ReviewAnswer, ...]
    probability: float = 1.0
    """The sampling probability of the item."""
    id: int = 0
    """Its row in the ledger."""


@dataclass(frozen=True)
class ReviewTask:
    """A review: what is asked, about which versions, of how many raters."""

    id: int
    name: str
    kind: Kind
    guideline: Guideline
    models: tuple[ReviewedModel, ...]
    """The first is the version under review."""
    raters: int
    """The number of human raters per item."""
    seed: int
    secret: str = field(repr=False)
    settings: Mapping[str, Any]
    at: float

    def order(self, item: ReviewItem, rater: str) -> tuple[int, ...]:
        """Return the order of the answers for this rater, from left to right: random, but always the same."""
        order = list(range(len(item.answers)))
        Random(f"{self.seed}:{item.item}:{rater}").shuffle(order)
        return tuple(order)

    def token(self, rater: str) -> str:
        """Return the access token of this rater."""
        return hmac.digest(self.secret.encode(), rater.encode(), "sha256").hex()[:32]


@dataclass(frozen=True, slots=True)
class Rating:
    """The rating of one item by one rater."""

    id: int
    item: int
    rater: str
    rater_kind: str
    choice: str | None
    """a, b, tie, both_bad or skip; of a rubric None or skip."""
    criteria: Mapping[str, int]
    rationale: str
    shown_order: list[int]
    blind: bool
    guideline_version: str
    sampling_probability: float
    milliseconds: int | None
    supersedes: int | None
    at: float


class ReviewStore:
    """Tasks and ratings in a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    # -- tasks

    def create(
        self,
        name: str,
        *,
        kind: Kind,
        guideline: Guideline,
        items: Sequence[ReviewItem],
        models: Sequence[ReviewedModel],
        raters: int = 2,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> ReviewTask:
        """Create a task; it never changes afterwards."""
        if not items:
            raise DataError(f"review {name}", "has no items")
        values = {
            "name": name, "kind": kind, "guideline": guideline.text, "guideline_version": guideline.version,
            "criteria": guideline.plain_criteria(), "models": [[version.digest, version.name] for version in models],
            "raters": raters, "seed": seed, "secret": secrets.token_hex(16), "settings": dict(settings or {}),
            "at": time.time(),
        }  # fmt: skip
        with self.ledger.exclusive(f"review {name}") as database:
            if database.execute(sa.select(_tasks.c.id).where(_tasks.c.name == name)).first():
                raise ConfigError(f"review {name}", "a task of this name exists", hint="choose another `--name`")
            number = database.execute(sa.insert(_tasks).values(values).returning(_tasks.c.id)).scalar_one()
            database.execute(sa.insert(_items), [{"task": number, **_row_of(item)} for item in items])
        self.ledger.log("review", models[0].digest, task=name, kind=kind, items=len(items))
        return self.task(name)

    def task(self, name: str) -> ReviewTask:
        """Return the task of this name."""
        tasks = {task.name: task for task in self.tasks()}
        if name not in tasks:
            raise unknown_name("review", name, tasks) if tasks else ConfigError(
                "review", f"there is no task `{name}`", hint="create one with `vita review create`"
            )  # fmt: skip
        return tasks[name]

    def tasks(self) -> list[ReviewTask]:
        """Return all tasks, oldest first."""
        with self.ledger.transaction() as database:
            return [_task_of(dict(row)) for row in database.execute(sa.select(_tasks).order_by(_tasks.c.id)).mappings()]

    def items(self, task: ReviewTask) -> list[ReviewItem]:
        """Return the items of a task."""
        query = sa.select(_items).where(_items.c.task == task.id).order_by(_items.c.id)
        with self.ledger.transaction() as database:
            return [_item_of(dict(row)) for row in database.execute(query).mappings()]

    # -- raters

    def enter(self, task: ReviewTask, rater: str, *, kind: RaterKind = "human") -> str:
        """Register a rater and return the token of their link; registering again returns the same token."""
        if not rater.strip() or len(rater) > 200:
            raise ConfigError("review.rater", expected="a name of 1 to 200 letters", got=rater)
        with self.ledger.exclusive(f"raters of {task.name}") as database:
            same = (_raters.c.task == task.id, _raters.c.rater == rater)
            known = database.execute(sa.select(_raters.c.kind).where(*same)).scalar()
            if known is None:
                row = {"task": task.id, "rater": rater, "kind": kind, "at": time.time()}
                database.execute(sa.insert(_raters).values(row))
        if known not in (None, kind):
            raise ConfigError(f"review rater {rater}", expected=f"a {known}, as before", got=kind)
        return task.token(rater)

    def raters(self, task: ReviewTask) -> dict[str, str]:
        """Return rater -> human, judge or rule."""
        query = sa.select(_raters).where(_raters.c.task == task.id).order_by(_raters.c.id)
        with self.ledger.transaction() as database:
            return {row["rater"]: row["kind"] for row in database.execute(query).mappings()}

    def rater_of(self, task: ReviewTask, token: str) -> str | None:
        """Return the person with this token; judges have no page."""
        people = [rater for rater, kind in self.raters(task).items() if kind == "human"]
        return next((rater for rater in people if hmac.compare_digest(task.token(rater), token)), None)

    # -- rating

    def queue(self, task: ReviewTask, rater: str) -> list[ReviewItem]:
        """Return the items that this rater has not rated, in the order of the rater, without fully rated items."""
        ratings = self.ratings(task)
        rated = {rating.item for rating in ratings if rating.rater == rater}
        humans = Counter(rating.item for rating in ratings if rating.rater_kind == "human" and rating.rater != rater)
        items = [item for item in self.items(task) if item.id not in rated and humans[item.id] < task.raters]
        Random(f"{task.seed}:{rater}").shuffle(items)
        # Items with ratings by other people come first, so that a rated item has several ratings.
        return sorted(items, key=lambda item: -humans[item.id])

    def next(self, task: ReviewTask, rater: str) -> ReviewItem | None:
        """Return the next item to rate."""
        return next(iter(self.queue(task, rater)), None)

    def progress(self, task: ReviewTask, rater: str) -> tuple[int, int]:
        """Return the number of rated items and of all items of this rater."""
        rated = sum(rating.rater == rater for rating in self.ratings(task))
        return rated, rated + len(self.queue(task, rater))

    def last(self, task: ReviewTask, rater: str) -> ReviewItem | None:
        """Return the item that this rater rated last."""
        ratings = [rating for rating in self.ratings(task) if rating.rater == rater]
        if not ratings:
            return None
        newest = max(ratings, key=lambda rating: rating.id)
        return next(item for item in self.items(task) if item.id == newest.item)

    def rate(
        self,
        task: ReviewTask,
        item: ReviewItem,
        rater: str,
        *,
        choice: str | None = None,
        criteria: Mapping[str, int] | None = None,
        rationale: str = "",
        milliseconds: int | None = None,
        order: Sequence[int] | None = None,
        blind: bool = True,
    ) -> Rating:
        """Record a rating; a second rating of the same item by the same rater supersedes the first."""
        kind = self.raters(task).get(rater)
        if kind is None:
            raise DataError(f"review {task.name}", f"{rater!r} is not a rater of this task")
        _check(task, choice, criteria or {})
        row = {
            "item": item.id, "rater": rater, "rater_kind": kind, "choice": choice, "criteria": dict(criteria or {}),
            "rationale": rationale.strip(), "blind": blind, "milliseconds": milliseconds, "at": time.time(),
            "shown_order": list(order if order is not None else task.order(item, rater)),
            "guideline_version": task.guideline.version, "sampling_probability": item.probability,
        }  # fmt: skip
        same = (_ratings.c.item == item.id) & (_ratings.c.rater == rater)
        with self.ledger.exclusive(f"ratings of {task.name}") as database:
            before = database.execute(sa.select(sa.func.max(_ratings.c.id)).where(same)).scalar()
            inserted = database.execute(sa.insert(_ratings).values(**row, supersedes=before).returning(_ratings))
            return Rating(**inserted.mappings().one())

    def ratings(self, task: ReviewTask, *, superseded: bool = False) -> list[Rating]:
        """Return the ratings, oldest first: the newest per rater and item, or all with `superseded`."""
        item_ids = sa.select(_items.c.id).where(_items.c.task == task.id)
        query = sa.select(_ratings).where(_ratings.c.item.in_(item_ids)).order_by(_ratings.c.id)
        with self.ledger.transaction() as database:
            all_ratings = [Rating(**row) for row in database.execute(query).mappings()]
        if superseded:
            return all_ratings
        newest = {(rating.item, rating.rater): rating for rating in all_ratings}
        return sorted(newest.values(), key=lambda rating: rating.id)


def _check(task: ReviewTask, choice: str | None, criteria: Mapping[str, int]) -> None:
    where = f"review {task.name}"
    if choice is not None and choice not in CHOICES:
        raise unknown_name(f"{where}.choice", choice, CHOICES)
    if choice == "skip":
        return
    if task.kind == "pairwise":
        if choice is None or criteria:
            raise DataError(where, expected=f"one of {', '.join(CHOICES)}", got=choice)
        return
    names = [criterion.name for criterion in task.guideline.criteria]
    if choice is not None or set(criteria) != set(names):
        raise DataError(where, expected=f"a level for each of {', '.join(names)}", got=choice or dict(criteria))
    for name, level in criteria.items():
        if level not in LEVELS or isinstance(level, bool):
            raise DataError(f"{where}.{name}", expected="1 to 5", got=level)


def _row_of(item: ReviewItem) -> dict[str, Any]:
    return {
        "item": item.item,
        "prompt": [{"role": message.role, "content": message.content} for message in item.prompt],
        "answers": [{"model": a.model, "text": a.text, "finish": a.finish, "seed": a.seed} for a in item.answers],
        "probability": item.probability,
    }


def _item_of(row: Mapping[str, Any]) -> ReviewItem:
    return ReviewItem(
        row["item"],
        tuple(Message(values["role"], values["content"]) for values in row["prompt"]),
        tuple(ReviewAnswer(**values) for values in row["answers"]),
        row["probability"],
        row["id"],
    )


def _task_of(row: Mapping[str, Any]) -> ReviewTask:
    guideline = Guideline.of(row["guideline"], row["criteria"])
    return ReviewTask(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        guideline=guideline,
        models=tuple(ReviewedModel(*version) for version in row["models"]),
        raters=row["raters"],
        seed=row["seed"],
        secret=row["secret"],
        settings=row["settings"],
        at=row["at"],
    )
