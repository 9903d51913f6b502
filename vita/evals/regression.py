"""A test of what serves now, held against the report that it was released with: what got significantly worse.

for drop in drops(released_report, report_of_now):
    print(drop)

On the same items in pairs, with p-values corrected for the number of comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.spine.ledger import Ledger
from vita.stats.intervals import Interval
from vita.stats.paired import read_items, versus

SIGNIFICANT = 0.05
RETESTED = "retested"
"""The event of a test of what serves; its subject is the service and the step, as `cat cat/test_chat`."""


@dataclass(frozen=True)
class Drop:
    """A figure that is worse than it was."""

    figure: str
    worse_by: Interval
    p_value: float

    def __str__(self) -> str:
        return f"{self.figure} is worse by {self.worse_by} (p = {self.p_value:.2g})"

    def as_json(self) -> dict[str, Any]:
        return {"figure": self.figure, "worse_by": self.worse_by.as_json(), "p_value": self.p_value}


def drops(before: Path, now: Path, *, seed: int = 0) -> list[Drop]:
    """What a report says to be significantly worse than another said: fewer right answers, more bits for a text."""
    found = versus(before, read_items(now), seed=seed)
    lost = [Drop(name, _turned(one.difference), one.p_value) for name, one in found.tasks.items()]
    more = [Drop(f"{name}/bits_per_byte", one.difference, one.p_value) for name, one in found.texts.items()]
    return [one for one in [*lost, *more] if one.worse_by.value > 0 and one.p_value < SIGNIFICANT]


def last_retest(ledger: Ledger, subject: str) -> float:
    """When that was last tested, in seconds since 1970; 0 when it never was."""
    return max((one["at"] for one in ledger.events(subject) if one["event"] == RETESTED), default=0.0)


def _turned(change: Interval) -> Interval:
    return Interval(-change.value, -change.high, -change.low, change.n)
