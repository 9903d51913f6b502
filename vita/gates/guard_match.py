"""The match of guards: a release must have the guard with which the figures of its gate were measured.

    guards = guards_of(judged, evidence)                     # digests of the guards in the reports of passed criteria
    refuse_other_guard(guards, release_guard, gate="cat/release", model=digest)

A red-team report records the guard of the model in its settings. Other reports have no guard and require none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from vita.gates.policy import GateResult, ReportEvidence
from vita.infer.content_filter import ContentFilter
from vita.reporting.figures import read_report
from vita.spine.config import build
from vita.spine.errors import GateError
from vita.spine.store import canonical_json

GUARD = "guard"
"""The name, in waivers, of the requirement that a release has the guard with which its figures were measured."""


def guard_digest(guard: Mapping[str, Any] | None) -> str | None:
    """Return the digest of all settings of a guard; None without a guard."""
    if guard is None:
        return None
    full_guard = build(ContentFilter, guard, where="guard").model_dump(mode="json")
    return hashlib.sha256(canonical_json(full_guard)).hexdigest()


def guards_of(judged: GateResult, evidence: Mapping[str, ReportEvidence]) -> tuple[str | None, ...]:
    """Return the digests of the guards with which the criteria were measured; waived criteria are ignored."""
    passed = {result.criterion.report for result in judged.results if result.verdict == "pass"}
    settings_by_step = {step: read_report(evidence[step].folder).settings for step in sorted(passed)}
    return tuple(
        dict.fromkeys(guard_digest(settings[GUARD]) for settings in settings_by_step.values() if GUARD in settings)
    )


def refuse_other_guard(guards: Sequence[str | None], guard: Mapping[str, Any] | None, *, gate: str, model: str) -> None:
    """Raise if the guard of the release is not the guard with which the criteria were measured.

    If a gate has criteria with and without a guard, the guard is required.
    """
    measured_guards = {digest for digest in guards if digest} or set(guards)
    release_guard = guard_digest(guard)
    if measured_guards and measured_guards != {release_guard}:
        hint = (
            "release the weights with just the guard that they are attacked behind (`redteam: {guard: ...}`, "
            f"`release: {{guard: ...}}`), or `vita waive {model[:12]} --gate {gate} --bar {GUARD}`"
        )
        expected = " and ".join(sorted(_description(digest) for digest in measured_guards))
        raise GateError(
            f"gate {gate}",
            expected=f"the guard used in the measurement: {expected}",
            got=_description(release_guard),
            hint=hint,
        )


def _description(digest: str | None) -> str:
    return f"the guard {digest[:12]}" if digest else "no guard"
