"""The bars that apply to a measurement: those in force when it began, and those of today.

    versions = [PolicyVersion(policy, digest, at), ...]      # a gate's policies in the order in which they were set
    bar_added_at(versions)                                   # identity of a bar -> time since which it is in the policy
    removed_bars(versions, first_measured)                   # bars that were removed after the measurement

A gate must not depend on figures that are already known. A bar that is added after a measurement does not count for it,
and a bar that is removed after a measurement still counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vita.gates.policy import Bar, Policy


@dataclass(frozen=True)
class PolicyVersion:
    """A recorded policy, with its time in seconds since 1970."""

    policy: Policy
    digest: str
    at: float


def bar_added_at(fixed: Sequence[PolicyVersion]) -> dict[str, float]:
    """Return the time since which each bar of the present policy has been in the policy without interruption."""
    since: dict[str, float] = {}
    for version in fixed:
        since = {bar.identity: since.get(bar.identity, version.at) for bar in version.policy.bars}
    return since


def removed_bars(fixed: Sequence[PolicyVersion], first: Callable[[Bar], float | None]) -> list[Bar]:
    """Return bars that were removed after the first measurement of their figure on these weights.

    `first` returns the time of that measurement. For a figure that was never measured, the first measurement of any
    present figure counts. A bar that was replaced by a changed one is excluded, because the changed one cannot pass.
    """
    since, now = bar_added_at(fixed), fixed[-1].policy.bars
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
    """Return the required approvals: the larger number of the present policy and of the policy when measuring began."""
    then = _at(fixed, _first(fixed, first))
    return max(fixed[-1].policy.approvals, then.policy.approvals if then else 0)


def _first(fixed: Sequence[PolicyVersion], first: Callable[[Bar], float | None]) -> float:
    """Return the time of the first measurement of a present figure on these weights; now if there is none."""
    moments = [moment for bar in fixed[-1].policy.bars if (moment := first(bar)) is not None]
    return min(moments, default=fixed[-1].at)


def _at(fixed: Sequence[PolicyVersion], moment: float) -> PolicyVersion | None:
    """Return the policy at a time."""
    return next((version for version in reversed(fixed) if version.at <= moment), None)
