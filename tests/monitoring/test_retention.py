"""Retention times of the request log, feedback and events."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from tests.request_logs import feedback_row, request_row, write_log
from vita.monitoring.request_log import feedback_since, figures, requests_since
from vita.monitoring.retention import BATCH, Retention, outdated, prune
from vita.server.service.pruning import prune_regularly
from vita.spine.ledger import Ledger

DAY = 86_400.0
NOW = time.time()


def _prune(ledger: Ledger, **settings: Any) -> Counter[str]:
    counts: Counter[str] = Counter()
    for step in prune(ledger, Retention(**settings), now=NOW):
        assert max(step.values()) <= BATCH
        counts.update(step)
    return counts


def test_the_content_of_a_request_is_removed_before_its_figures(any_ledger: Ledger) -> None:
    request_rows = [request_row(n, at=NOW - n * 50 * DAY) for n in range(10)]
    feedback_rows = [feedback_row(n, kind="edit", value=None, content={"better": "secret"}, at=NOW - n * 50 * DAY)
            for n in range(10)]  # fmt: skip
    write_log(any_ledger, request_rows, feedback_rows)
    expected = {
        "contents of requests": 8,
        "words of users": 8,
        "feedback": 1,
        "requests": 1,
        "replica time": 0,
        "events": 0,
    }
    assert outdated(any_ledger, Retention(), now=NOW) == expected
    _prune(any_ledger)
    rows = requests_since(any_ledger)
    assert [bool(row["asked"]) for row in sorted(rows, key=lambda row: -row["at"])] == [True] * 2 + [False] * 7
    assert figures(any_ledger)["cat:1"]["latency_p50"] == 0.5, "figures remain longer than the content"
    assert sum("secret" in str(row["content"]) for row in feedback_since(any_ledger)) == 2
    assert not any(outdated(any_ledger, Retention(), now=NOW).values())


def test_a_vote_keeps_its_rejected_answer_after_the_removal_of_its_texts(any_ledger: Ledger) -> None:
    content = {"rejected_request_id": "req-1", "reason": "secret"}
    write_log(any_ledger, [request_row()], [feedback_row(kind="vote", content=content, at=NOW - 100 * DAY)])
    assert _prune(any_ledger) == {"words of users": 1}
    assert feedback_since(any_ledger)[0]["content"] == {"rejected_request_id": "req-1"}


def test_a_limit_on_the_number_of_requests_keeps_the_newest(any_ledger: Ledger) -> None:
    write_log(any_ledger, [request_row(n) for n in range(1200)])
    assert _prune(any_ledger, request_rows=100) == {"requests over the number": 1100}
    assert {row["request"] for row in requests_since(any_ledger)} == {f"req-{n}" for n in range(1100, 1200)}


def test_only_events_that_a_newer_event_replaces_are_removed(any_ledger: Ledger) -> None:
    for number in range(3):
        any_ledger.log("lived", "cat", number=number)
    any_ledger.log("approval", "cat", who="Ada")
    counts = Counter[str]()
    for step in prune(any_ledger, Retention(event_days=0.0), now=time.time() + 1):
        counts.update(step)
    assert counts == {"events": 2}
    assert [(row["event"], row["data"]) for row in any_ledger.events("cat")] == [
        ("lived", {"number": 2}), ("approval", {"who": "Ada"}),
    ]  # fmt: skip


def test_a_running_service_removes_old_rows_concurrently_with_requests(any_ledger: Ledger) -> None:
    write_log(any_ledger, [request_row(n, at=NOW - 500 * DAY) for n in range(1000)] + [request_row(5000)])
    notices: list[str] = []

    async def run() -> int:
        pruning_task = asyncio.create_task(prune_regularly(any_ledger, Retention(), seconds=60, notify=notices.append))
        turns = 0
        while not notices:
            await asyncio.sleep(0.005)
            turns += 1
        pruning_task.cancel()
        return turns

    turns = asyncio.run(asyncio.wait_for(run(), 30))
    assert turns > 1, "the event loop continues during the removal"
    assert notices == ["removed by age: 1,000 contents of requests, 1,000 requests"]
    assert [row["request"] for row in requests_since(any_ledger)] == ["req-5000"]
