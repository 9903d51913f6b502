"""The raters' page over HTTP: nobody sees names or others' votes, and what is wrong is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.csp import check_page_policy
from vita.data.records import Message
from vita.review.desk import ReviewAnswer, ReviewedModel, ReviewItem, ReviewStore, ReviewTask
from vita.review.guideline import RUBRIC, Kind, default
from vita.review.web import review_app
from vita.spine.ledger import Ledger

EVIL = '<script>alert("x")</script>'


class Room:
    """A task, its page, and a way to ask it."""

    def __init__(self, folder: Path, *, kind: Kind = "pairwise") -> None:
        self.desk = ReviewStore(Ledger(folder / "ledger.db"))
        answers = (ReviewAnswer("n" * 64, f"new {EVIL}"), ReviewAnswer("o" * 64, "old"))
        items = [
            ReviewItem(f"{n}", (Message("user", f"Q{n} {EVIL}"),), answers if kind == "pairwise" else answers[:1])
            for n in range(3)
        ]
        models = [ReviewedModel("n" * 64, "secret-new"), ReviewedModel("o" * 64, "secret-old")]
        self.task: ReviewTask = self.desk.create("t", kind=kind, guideline=default(kind), items=items, models=models)
        self.tokens = {rater: self.desk.enter(self.task, rater) for rater in ("ann", "bob")}
        self.app = review_app(self.desk, "t")

    async def ask(self, path: str, body: Any = None, *, host: str = "127.0.0.1", raw: bytes | None = None) -> Any:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            if body is None and raw is None:
                return await client.get(path)
            content = json.dumps(body).encode() if raw is None else raw
            return await client.post(path, content=content, headers={"content-type": "application/json"})

    def go(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        import asyncio

        return asyncio.run(self.ask(path, body, **more))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_a_rater_goes_through_all_items_and_resumes_where_they_stopped(room: Room) -> None:
    ann = f"/r/{room.tokens['ann']}"
    assert room.go(f"{ann}/task").json()["guideline"].startswith("You see a request")
    first = room.go(f"{ann}/next").json()
    assert first["progress"] == {"done": 0, "total": 3} and len(first["item"]["answers"]) == 2
    said = {"item": first["item"]["id"], "choice": "left", "rationale": "clear", "milliseconds": 900}
    second = room.go(f"{ann}/rate", said).json()
    assert second["progress"]["done"] == 1 and second["item"]["id"] != first["item"]["id"]
    assert room.go(f"{ann}/next").json() == second
    (rating,) = room.desk.ratings(room.task)
    shown = first["item"]["answers"][0]
    assert rating.choice == ("a" if shown.startswith("new") else "b")
    assert (rating.rater, rating.milliseconds, rating.rationale) == ("ann", 900, "clear")
    for choice in ("both_bad", "skip"):
        item = room.go(f"{ann}/next").json()["item"]["id"]
        last = room.go(f"{ann}/rate", {"item": item, "choice": choice}).json()
    assert last["item"] is None and last["progress"] == {"done": 3, "total": 3}


def test_the_last_one_can_be_corrected_as_it_was_seen(room: Room) -> None:
    ann = f"/r/{room.tokens['ann']}"
    assert room.go(f"{ann}/last").status_code == 404
    item = room.go(f"{ann}/next").json()["item"]
    room.go(f"{ann}/rate", {"item": item["id"], "choice": "right"})
    last = room.go(f"{ann}/last").json()
    assert last["rating"]["choice"] == "right" and last["item"] == item
    room.go(f"{ann}/rate", {"item": item["id"], "choice": "tie"})
    assert [one.choice for one in room.desk.ratings(room.task)] == ["tie"]
    assert len(room.desk.ratings(room.task, superseded=True)) == 2


def test_no_name_no_vote_of_another_and_no_markup_reaches_a_rater(room: Room) -> None:
    ann, bob = (f"/r/{room.tokens[name]}" for name in ("ann", "bob"))
    item = room.go(f"{ann}/next").json()["item"]["id"]
    room.go(f"{ann}/rate", {"item": item, "choice": "left", "rationale": "because of ann"})
    everything = "".join(room.go(f"{bob}{path}").text for path in ("", "/task", "/next", "/last"))
    for hidden in ("secret", "n" * 64, "because", "ann", room.tokens["ann"]):
        assert hidden not in everything.replace("cannot", "")
    assert EVIL not in room.go(bob).text  # texts come as JSON, and the page puts them in as text


def test_the_page_is_one_file_that_loads_nothing_from_elsewhere(room: Room) -> None:
    answer = room.go(f"/r/{room.tokens['ann']}")
    check_page_policy(answer.text, answer.headers["content-security-policy"])
    assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"choice": "left"}, 422),
        ({"item": 999, "choice": "left"}, 404),
        ({"item": 1, "choice": "a"}, 422),
        ({"item": 1, "choice": "left", "order": [1, 0]}, 422),
        ({"item": 1, "choice": "left", "rationale": "x" * 5000}, 422),
        ({"item": 1, "choice": "left", "milliseconds": -1}, 422),
        ({"item": 1}, 422),
        ({"item": 1, "criteria": {"clarity": 3}}, 422),
    ],
)
def test_what_cannot_be_meant_is_refused(room: Room, said: dict[str, Any], status: int) -> None:
    answer = room.go(f"/r/{room.tokens['ann']}/rate", said)
    assert answer.status_code == status and answer.json()["detail"]
    assert not room.desk.ratings(room.task)


def test_strangers_large_bodies_and_other_hosts_stay_out(room: Room) -> None:
    assert room.go("/r/nobody").status_code == 404 and room.go("/").status_code == 404
    assert room.go("/r/nobody/rate", {"item": 1, "choice": "left"}).status_code == 404
    assert room.go(f"/r/{room.tokens['ann']}/rate", raw=b"x" * 100_000).status_code == 413
    assert room.go(f"/r/{room.tokens['ann']}/rate", raw=b"{").status_code == 422
    assert room.go(f"/r/{room.tokens['ann']}", host="evil.example").status_code == 400


def test_a_rubric_is_shown_with_its_anchors_and_kept(tmp_path: Path) -> None:
    room = Room(tmp_path, kind="rubric")
    ann = f"/r/{room.tokens['ann']}"
    told = room.go(f"{ann}/task").json()
    assert [one["name"] for one in told["criteria"]] == [one.name for one in RUBRIC]
    assert all(len(one["anchors"]) == 5 for one in told["criteria"])
    item = room.go(f"{ann}/next").json()["item"]
    levels = {one.name: 2 for one in RUBRIC}
    room.go(f"{ann}/rate", {"item": item["id"], "criteria": levels})
    assert room.go(f"{ann}/last").json()["rating"]["criteria"] == levels
    assert room.go(f"{ann}/rate", {"item": item["id"], "choice": "left"}).status_code == 422
