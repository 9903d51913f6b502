"""The bars that apply to a measurement: those in force when it began, and those of today.

    versions = [PolicyVersion(policy, digest, at), ...]      # a gate's policies in the order in which they were set
    standing_since(fixed)                                    # bar's identity -> since when it stands without a break
    taken_away(fixed, first_measured)                        # bars that stood then and stand no longer

Who sees a figure and then moves the bar, takes it away or asks fewer people has no gate. So a bar that is set late
is no bar for what was measured before, and one that is taken away late still is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vita.gates.policy import Bar, Policy


@dataclass(frozen=True)
class PolicyVersion:
    """A policy as it was set down, and when (seconds since 1970)."""

    policy: Policy
    digest: str
    at: float


def standing_since(fixed: Sequence[PolicyVersion]) -> dict[str, float]:
    """For each bar of today's policy, the time from which on it stood there without a break."""
    since: dict[str, float] = {}
    for version in fixed:
        since = {bar.identity: since.get(bar.identity, version.at) for bar in version.policy.bars}
    return since


def taken_away(fixed: Sequence[PolicyVersion], first: Callable[[Bar], float | None]) -> list[Bar]:
    """The bars that stood when their figure was first measured on these weights, and stand no longer.

    `first` says when that was. For a figure that was never measured, the first measurement of any of today's figures
    counts. A bar in whose place a changed one stands is left out: the changed one came late and cannot pass.
    """
    since, now = standing_since(fixed), fixed[-1].policy.bars
    removed: dict[str, Bar] = {}
    for bar in [bar for version in fixed[:-1] for bar in version.policy.bars]:
        moment = first(bar)
        if moment is None:
            moment = _first(fixed, first)
        then = _at(fixed, moment)
        stood = then is not None and bar.identity in {other.identity for other in then.policy.bars}
        changed = any(other.name == bar.name and since[other.identity] > moment for other in now)
        if stood and bar.identity not in since and not changed:
            removed[bar.identity] = bar
    return list(removed.values())


def approvals_needed(fixed: Sequence[PolicyVersion], first: Callable[[Bar], float | None]) -> int:
    """Return the number of approvals needed: the larger of today's policy and the policy when measuring began."""
    then = _at(fixed, _first(fixed, first))
    return max(fixed[-1].policy.approvals, then.policy.approvals if then else 0)


def _first(fixed: Sequence[PolicyVersion], first: Callable[[Bar], float | None]) -> float:
    """When the first of today's figures was measured on these weights; now where none was."""
    moments = [moment for bar in fixed[-1].policy.bars if (moment := first(bar)) is not None]
    return min(moments, default=fixed[-1].at)


def _at(fixed: Sequence[PolicyVersion], moment: float) -> PolicyVersion | None:
    """The policy that stood at a moment."""
    return next((version for version in reversed(fixed) if version.at <= moment), None)
