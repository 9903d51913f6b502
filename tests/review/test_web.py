"""The review page over HTTP: raters see no names or votes of others, and invalid requests are refused."""

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


class ReviewPage:
    """A review task, its page, and a client of the page."""

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

    async def send(self, path: str, body: Any = None, *, host: str = "127.0.0.1", raw: bytes | None = None) -> Any:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            if body is None and raw is None:
                return await client.get(path)
            content = json.dumps(body).encode() if raw is None else raw
            return await client.post(path, content=content, headers={"content-type": "application/json"})

    def request(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        import asyncio

        return asyncio.run(self.send(path, body, **options))


@pytest.fixture
def page(tmp_path: Path) -> ReviewPage:
    return ReviewPage(tmp_path)


def test_a_rater_sees_all_items_and_resumes_after_a_pause(page: ReviewPage) -> None:
    ann_path = f"/r/{page.tokens['ann']}"
    assert page.request(f"{ann_path}/task").json()["guideline"].startswith("You see a request")
    first_page = page.request(f"{ann_path}/next").json()
    assert first_page["progress"] == {"done": 0, "total": 3} and len(first_page["item"]["answers"]) == 2
    vote = {"item": first_page["item"]["id"], "choice": "left", "rationale": "clear", "milliseconds": 900}
    second_page = page.request(f"{ann_path}/rate", vote).json()
    assert second_page["progress"]["done"] == 1 and second_page["item"]["id"] != first_page["item"]["id"]
    assert page.request(f"{ann_path}/next").json() == second_page
    (rating,) = page.desk.ratings(page.task)
    left_answer = first_page["item"]["answers"][0]
    assert rating.choice == ("a" if left_answer.startswith("new") else "b")
    assert (rating.rater, rating.milliseconds, rating.rationale) == ("ann", 900, "clear")
    for choice in ("both_bad", "skip"):
        item = page.request(f"{ann_path}/next").json()["item"]["id"]
        last_page = page.request(f"{ann_path}/rate", {"item": item, "choice": choice}).json()
    assert last_page["item"] is None and last_page["progress"] == {"done": 3, "total": 3}


def test_the_last_rating_can_be_corrected_with_the_same_order(page: ReviewPage) -> None:
    ann_path = f"/r/{page.tokens['ann']}"
    assert page.request(f"{ann_path}/last").status_code == 404
    item = page.request(f"{ann_path}/next").json()["item"]
    page.request(f"{ann_path}/rate", {"item": item["id"], "choice": "right"})
    last_page = page.request(f"{ann_path}/last").json()
    assert last_page["rating"]["choice"] == "right" and last_page["item"] == item
    page.request(f"{ann_path}/rate", {"item": item["id"], "choice": "tie"})
    assert [rating.choice for rating in page.desk.ratings(page.task)] == ["tie"]
    assert len(page.desk.ratings(page.task, superseded=True)) == 2


def test_a_rater_sees_no_model_names_no_votes_of_others_and_no_markup(page: ReviewPage) -> None:
    ann_path, bob_path = (f"/r/{page.tokens[name]}" for name in ("ann", "bob"))
    item = page.request(f"{ann_path}/next").json()["item"]["id"]
    page.request(f"{ann_path}/rate", {"item": item, "choice": "left", "rationale": "because of ann"})
    responses = "".join(page.request(f"{bob_path}{path}").text for path in ("", "/task", "/next", "/last"))
    for secret in ("secret", "n" * 64, "because", "ann", page.tokens["ann"]):
        assert secret not in responses.replace("cannot", "")
    assert EVIL not in page.request(bob_path).text  # texts arrive as JSON, and the page inserts them as text


def test_the_page_loads_no_other_file(page: ReviewPage) -> None:
    answer = page.request(f"/r/{page.tokens['ann']}")
    check_page_policy(answer.text, answer.headers["content-security-policy"])
    assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "status"),
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
def test_invalid_ratings_are_refused(page: ReviewPage, body: dict[str, Any], status: int) -> None:
    answer = page.request(f"/r/{page.tokens['ann']}/rate", body)
    assert answer.status_code == status and answer.json()["detail"]
    assert not page.desk.ratings(page.task)


def test_unknown_tokens_large_bodies_and_other_hosts_are_refused(page: ReviewPage) -> None:
    assert page.request("/r/nobody").status_code == 404 and page.request("/").status_code == 404
    assert page.request("/r/nobody/rate", {"item": 1, "choice": "left"}).status_code == 404
    assert page.request(f"/r/{page.tokens['ann']}/rate", raw=b"x" * 100_000).status_code == 413
    assert page.request(f"/r/{page.tokens['ann']}/rate", raw=b"{").status_code == 422
    assert page.request(f"/r/{page.tokens['ann']}", host="evil.example").status_code == 400


def test_a_rubric_is_shown_with_its_anchors_and_its_ratings_are_stored(tmp_path: Path) -> None:
    page = ReviewPage(tmp_path, kind="rubric")
    ann_path = f"/r/{page.tokens['ann']}"
    task = page.request(f"{ann_path}/task").json()
    assert [criterion["name"] for criterion in task["criteria"]] == [criterion.name for criterion in RUBRIC]
    assert all(len(criterion["anchors"]) == 5 for criterion in task["criteria"])
    item = page.request(f"{ann_path}/next").json()["item"]
    levels = {criterion.name: 2 for criterion in RUBRIC}
    page.request(f"{ann_path}/rate", {"item": item["id"], "criteria": levels})
    assert page.request(f"{ann_path}/last").json()["rating"]["criteria"] == levels
    assert page.request(f"{ann_path}/rate", {"item": item["id"], "choice": "left"}).status_code == 422
