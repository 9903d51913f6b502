"""How long the request log, feedback and events are kept."""

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


def _pruned(ledger: Ledger, **settings: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for step in prune(ledger, Retention(**settings), now=NOW):
        assert max(step.values()) <= BATCH
        found.update(step)
    return found


def test_content_goes_before_the_figures_of_a_request(any_ledger: Ledger) -> None:
    asked = [request_row(n, at=NOW - n * 50 * DAY) for n in range(10)]
    said = [feedback_row(n, kind="edit", value=None, content={"better": "secret"}, at=NOW - n * 50 * DAY)
            for n in range(10)]  # fmt: skip
    write_log(any_ledger, asked, said)
    expected = {"contents of requests": 8, "words of users": 8, "feedback": 1, "requests": 1, "events": 0}
    assert outdated(any_ledger, Retention(), now=NOW) == expected
    _pruned(any_ledger)
    rows = requests_since(any_ledger)
    assert [bool(row["asked"]) for row in sorted(rows, key=lambda row: -row["at"])] == [True] * 2 + [False] * 7
    assert figures(any_ledger)["cat:1"]["latency_p50"] == 0.5, "figures outlive the content"
    assert sum("secret" in str(row["content"]) for row in feedback_since(any_ledger)) == 2
    assert not any(outdated(any_ledger, Retention(), now=NOW).values())


def test_a_vote_keeps_which_answer_it_compared_when_its_words_go(any_ledger: Ledger) -> None:
    content = {"rejected_request_id": "req-1", "reason": "secret"}
    write_log(any_ledger, [request_row()], [feedback_row(kind="vote", content=content, at=NOW - 100 * DAY)])
    assert _pruned(any_ledger) == {"words of users": 1}
    assert feedback_since(any_ledger)[0]["content"] == {"rejected_request_id": "req-1"}


def test_the_newest_requests_are_kept_where_their_number_is_limited(any_ledger: Ledger) -> None:
    write_log(any_ledger, [request_row(n) for n in range(1200)])
    assert _pruned(any_ledger, request_rows=100) == {"requests over the number": 1100}
    assert {row["request"] for row in requests_since(any_ledger)} == {f"req-{n}" for n in range(1100, 1200)}


def test_of_events_only_those_go_that_a_newer_one_has_replaced(any_ledger: Ledger) -> None:
    for number in range(3):
        any_ledger.log("lived", "cat", number=number)
    any_ledger.log("approval", "cat", who="Ada")
    found = Counter[str]()
    for step in prune(any_ledger, Retention(event_days=0.0), now=time.time() + 1):
        found.update(step)
    assert found == {"events": 2}
    assert [(row["event"], row["data"]) for row in any_ledger.events("cat")] == [
        ("lived", {"number": 2}), ("approval", {"who": "Ada"}),
    ]  # fmt: skip


def test_a_running_service_removes_old_rows_beside_its_requests(any_ledger: Ledger) -> None:
    write_log(any_ledger, [request_row(n, at=NOW - 500 * DAY) for n in range(1000)] + [request_row(5000)])
    told: list[str] = []

    async def run() -> int:
        pruning = asyncio.create_task(prune_regularly(any_ledger, Retention(), seconds=60, notify=told.append))
        turns = 0
        while not told:
            await asyncio.sleep(0.005)
            turns += 1
        pruning.cancel()
        return turns

    turns = asyncio.run(asyncio.wait_for(run(), 30))
    assert turns > 1, "the event loop continues during the removal"
    assert told == ["removed by age: 1,000 contents of requests, 1,000 requests"]
    assert [row["request"] for row in requests_since(any_ledger)] == ["req-5000"]
