"""The criteria that apply to a measurement: those in force when it began, and those of today.

    versions = [PolicyVersion(policy, digest, at), ...]  # a gate's policies in the order in which they were set
    criterion_added_at(versions)                     # identity of a criterion -> time since which it is in the policy
    removed_criteria(versions, first_measured)       # criteria that were removed after the measurement

A gate must not depend on figures that are already known. A criterion that is added after a measurement does not count
for it, and a criterion that is removed after a measurement still counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vita.gates.policy import Criterion, Policy


@dataclass(frozen=True)
class PolicyVersion:
    """A recorded policy, with its time in seconds since 1970."""

    policy: Policy
    digest: str
    at: float


def criterion_added_at(versions: Sequence[PolicyVersion]) -> dict[str, float]:
    """Return the time since which each criterion of the present policy has been in the policy without interruption."""
    since: dict[str, float] = {}
    for version in versions:
        since = {criterion.identity: since.get(criterion.identity, version.at) for criterion in version.policy.bars}
    return since


def removed_criteria(versions: Sequence[PolicyVersion], first: Callable[[Criterion], float | None]) -> list[Criterion]:
    """Return criteria that were removed after the first measurement of their figure on these weights.

    `first` returns the time of that measurement. For a figure that was never measured, the first measurement of any
    present figure counts. A criterion that was replaced by a changed one is excluded, because the changed one cannot
    pass.
    """
    since, now = criterion_added_at(versions), versions[-1].policy.bars
    removed: dict[str, Criterion] = {}
    for criterion in [criterion for version in versions[:-1] for criterion in version.policy.bars]:
        moment = first(criterion)
        if moment is None:
            moment = _first(versions, first)
        policy_then = _at(versions, moment)
        was_in_force = policy_then is not None and criterion.identity in {
            other.identity for other in policy_then.policy.bars
        }
        changed = any(other.name == criterion.name and since[other.identity] > moment for other in now)
        if was_in_force and criterion.identity not in since and not changed:
            removed[criterion.identity] = criterion
    return list(removed.values())


def approvals_needed(versions: Sequence[PolicyVersion], first: Callable[[Criterion], float | None]) -> int:
    """Return the required approvals: the larger number of the present policy and of the policy when measuring began."""
    policy_then = _at(versions, _first(versions, first))
    return max(versions[-1].policy.approvals, policy_then.policy.approvals if policy_then else 0)


def _first(versions: Sequence[PolicyVersion], first: Callable[[Criterion], float | None]) -> float:
    """Return the time of the first measurement of a present figure on these weights; now if there is none."""
    moments = [moment for criterion in versions[-1].policy.bars if (moment := first(criterion)) is not None]
    return min(moments, default=versions[-1].at)


def _at(versions: Sequence[PolicyVersion], moment: float) -> PolicyVersion | None:
    """Return the policy at a time."""
    return next((version for version in reversed(versions) if version.at <= moment), None)
