"""Regression test of a deployed model against the report of its release: the metrics that are significantly worse.

for drop in drops(released_report, report_of_now):
    print(drop)

The comparison is paired by item, with p-values corrected for the number of comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from vita.reporting.figures import read_report
from vita.spine.ledger import Ledger, events
from vita.stats.intervals import Interval
from vita.stats.paired import read_items, versus

SIGNIFICANT = 0.05
HEADLINES = ("accuracy", "perplexity", "bits_per_byte")
"""Metrics whose values the history of re-tests shows."""
RETESTED = "retested"
"""The event of a regression test; its subject is the service and the step, as `cat cat/test_chat`."""


@dataclass(frozen=True)
class Regression:
    """A figure that is worse than in the released report."""

    figure: str
    worse_by: Interval
    p_value: float

    def __str__(self) -> str:
        return f"{self.figure} is worse by {self.worse_by} (p = {self.p_value:.2g})"

    def as_json(self) -> dict[str, Any]:
        return {"figure": self.figure, "worse_by": self.worse_by.as_json(), "p_value": self.p_value}


def regressions(before: Path, now: Path, *, seed: int = 0) -> list[Regression]:
    """Return the figures that are significantly worse in the second report: lower accuracy or more bits per byte."""
    comparison = versus(before, read_items(now), seed=seed)
    task_drops = [
        Regression(name, _negated(task_comparison.difference), task_comparison.p_value)
        for name, task_comparison in comparison.tasks.items()
    ]
    text_drops = [
        Regression(f"{name}/bits_per_byte", text_comparison.difference, text_comparison.p_value)
        for name, text_comparison in comparison.texts.items()
    ]
    return [drop for drop in [*task_drops, *text_drops] if drop.worse_by.value > 0 and drop.p_value < SIGNIFICANT]


def headline_figures(report: Path) -> dict[str, dict[str, Any]]:
    """Return the accuracies, perplexities and bits per byte of a report, with their intervals as plain values."""
    rows = read_report(report).named().items()
    return {name: row.interval.as_json() for name, row in rows if name.rpartition("/")[2] in HEADLINES}


def retest_history(ledger: Ledger, service: str | None, *, newest: int | None = None) -> list[dict[str, Any]]:
    """Return the re-tests of a service or of all, oldest first: `at`, `test`, and the rows of `versions`."""
    query = sa.select(events).where(events.c.event == RETESTED).order_by(events.c.id)
    with ledger.transaction() as database:
        rows = [dict(row) for row in database.execute(query).mappings()]
    history = []
    for row in rows:
        name, _, test = row["subject"].rpartition(" ")
        if service in (None, name, row["data"].get("service")):
            history.append({"at": row["at"], "test": test, "versions": row["data"]["versions"]})
    return history if newest is None else history[-newest:]


def last_retest(ledger: Ledger, subject: str) -> float:
    """Return the time of the last regression test in seconds since 1970; 0 if there is none."""
    return max((event["at"] for event in ledger.events(subject) if event["event"] == RETESTED), default=0.0)


def _negated(change: Interval) -> Interval:
    return Interval(-change.value, -change.high, -change.low, change.n)
