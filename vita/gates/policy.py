"""Gate policies: the criteria for a model, and the verdict on each from reports on exactly these weights.

    criterion = {"report": "test_chat", "figure": "world/held_out/accuracy", "at_least": 0.8}
    policy = Policy(model="safety_tuning", bars=[criterion])
    judge(policy, model=digest, evidence={"test_chat": ReportEvidence(folder, digest, began)}, since={...}).verdict

If the interval contains the limit, the verdict is `unsure`. If the report is missing, is of other weights, or was
measured before the criterion was set, the verdict is `could_not_run`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from vita.reporting.figures import ReportFigure, read_report
from vita.reporting.metrics import present_name
from vita.spine.config import Settings
from vita.spine.errors import DataError, VitaError
from vita.spine.store import canonical_json
from vita.stats.intervals import Interval, difference
from vita.stats.paired import paired

Verdict = Literal["pass", "fail", "unsure", "could_not_run", "waived"]
EXIT_CODES = {"pass": 0, "waived": 0, "fail": 10, "could_not_run": 11, "unsure": 12}
"""Exit code of `vita gate` per verdict; 1 to 9 are the codes of errors (`vita/spine/errors.py`)."""
WAITING_FOR_APPROVAL = 13
"""Exit code if all criteria pass and approvals are missing."""
_WORST_FIRST: tuple[Verdict, ...] = ("could_not_run", "fail", "unsure", "waived", "pass")


class Criterion(Settings):
    """One criterion of a gate: a limit on a figure of a report."""

    report: str
    """Step whose report contains the figure, or the full name of another report: `review/NAME`."""
    figure: str = Field(min_length=1)
    """Figure, as listed by `vita show REPORT`: `world/held_out/accuracy`."""
    at_least: float | None = None
    """Minimum of the figure."""
    at_most: float | None = None
    """Maximum of the figure."""
    not_worse_than: str | None = None
    """Step whose report contains the same figure of another model; `margin` is the tolerated regression."""
    margin: float = Field(default=0.0, ge=0)
    """Maximum regression against the figure of the other model."""
    lower_is_better: bool | None = None
    """The direction of the figure, for `not_worse_than`; derived from the name of the figure by default."""
    by: Literal["interval", "value"] = "interval"
    """The part of the figure that must meet the limit: the whole interval, or its value alone."""

    @model_validator(mode="after")
    def _one_limit(self) -> Criterion:
        if sum(limit is not None for limit in (self.at_least, self.at_most, self.not_worse_than)) != 1:
            raise ValueError("set exactly one of `at_least`, `at_most` and `not_worse_than`")
        return self

    @property
    def name(self) -> str:
        """Return the name of the criterion in waivers."""
        return f"{self.report}:{self.figure}"

    @property
    def identity(self) -> str:
        """Return all fields as canonical JSON; a changed criterion is another criterion."""
        return canonical_json(self.model_dump(mode="json")).decode()

    def __str__(self) -> str:
        by = " by its value" if self.by == "value" else ""
        if self.not_worse_than is not None:
            direction = {None: "", True: ", lower is better", False: ", higher is better"}[self.lower_is_better]
            return f"{self.name} not worse than {self.not_worse_than}'s by more than {self.margin:g}{direction}{by}"
        limit = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{self.name} {limit}{by}"


class Policy(Settings):
    """A gate: the model, the criteria, and the number of required approvals."""

    model: str
    """Step whose model must pass the gate."""
    bars: tuple[Criterion, ...] = Field(min_length=1)
    """Criteria, which must all pass."""
    approvals: int = Field(default=0, ge=0)
    """Number of people who must approve the model after the criteria pass."""


@dataclass(frozen=True)
class ReportEvidence:
    """A report as the evidence of a gate."""

    folder: Path
    digest: str
    began: float
    """Start of the measurement, in seconds since 1970."""
    version: int = 0
    """Version of the measuring stage."""


@dataclass(frozen=True)
class CriterionResult:
    """The verdict on one criterion, with its reason."""

    criterion: Criterion
    verdict: Verdict
    reason: str
    report: str | None = None
    value: Interval | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "criterion": str(self.criterion),
            "name": self.criterion.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "report": self.report,
            "value": self.value.as_json() if self.value else None,
        }


@dataclass(frozen=True)
class GateResult:
    """The verdicts on all criteria."""

    results: tuple[CriterionResult, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the worst verdict."""
        verdicts = {result.verdict for result in self.results}
        return next(verdict for verdict in _WORST_FIRST if verdict in verdicts)

    @property
    def reports(self) -> list[str]:
        """Return the digests of the reports that were used."""
        return list(dict.fromkeys(result.report for result in self.results if result.report))


@dataclass(frozen=True)
class MeasurementHistory:
    """The earlier measurements of the same weights, under any name, test or life."""

    first: Mapping[str, float] = field(default_factory=dict)
    """Figure -> time of its first measurement; the empty name stands for all figures."""
    reports: Mapping[str, Sequence[ReportEvidence]] = field(default_factory=dict)
    """Step -> its reports on these weights, oldest first."""

    def measured_at(self, criterion: Criterion, evidence: ReportEvidence | None) -> float | None:
        """Return the time of the first measurement of the figure of a criterion."""
        moments = [self.first[name] for name in (criterion.figure, "") if name in self.first]
        return min([*moments, *([evidence.began] if evidence else [])], default=None)


def judge(
    policy: Policy,
    *,
    model: str,
    evidence: Mapping[str, ReportEvidence],
    since: Mapping[str, float],
    waived: Mapping[str, str] | None = None,
    removed: Sequence[Criterion] = (),
    history: MeasurementHistory | None = None,
) -> GateResult:
    """Evaluate the criteria of a policy on the reports.

    `evidence` maps steps to reports; `since` and `waived` map the identity of a criterion to the time when it was set
    and to the waiver. Only criteria that do not pass are waived. A criterion that was set or changed after the first
    measurement of its figure on these weights cannot pass; criteria that were removed after it (`removed`) still count.
    """
    history = history or MeasurementHistory()
    results = [
        _judge(
            criterion, model=model, evidence=evidence, since=since.get(criterion.identity, math.inf), history=history
        )
        for criterion in policy.bars
    ]
    for criterion in removed:
        result = _judge(criterion, model=model, evidence=evidence, since=-math.inf, history=history)
        results.append(
            replace(result, reason=f"{result.reason}; the criterion was removed after the measurement began")
        )
    return GateResult(tuple(_or_waived(result, waived or {}) for result in results))


def figure(folder: Path, name: str) -> ReportFigure:
    """Return the figure `name/metric` of a report folder."""
    report = read_report(folder)
    figures = report.named()
    if name in figures:
        return figures[name]
    if reasons := sorted(report.could_not_run.items())[:3]:
        problem = "; ".join(f"{probe} could not run: {reason}" for probe, reason in reasons)
        raise DataError(f"figure {name}", f"is not in the report; {problem}")
    if not figures:
        raise DataError(str(folder), "the report contains no figures")
    if (present := present_name(name)) in figures:
        raise DataError(f"figure {name}", f"has been renamed to `{present}`", hint=f"write `{present}` in the gate")
    raise DataError(f"figure {name}", "is not in the report", hint=f"it has {', '.join(sorted(figures)[:8])}, ...")


def measured(folder: Path) -> str | None:
    """Return the digest of the model of a report, or None if the report names none or cannot be read."""
    try:
        return read_report(folder).model
    except VitaError:
        return None


TOO_FEW = (
    "no interval can be computed, so the criterion stays undecided: measure more documents "
    "(curate's `held_out`, test's `documents`)"
)
"""The hint for a figure without an interval."""


def _judge(
    criterion: Criterion,
    *,
    model: str,
    evidence: Mapping[str, ReportEvidence],
    since: float,
    history: MeasurementHistory,
) -> CriterionResult:
    """Return the verdict on one criterion from its report, from earlier reports of the same test, and from its age."""
    report = evidence.get(criterion.report)
    if report is None:
        return CriterionResult(criterion, "could_not_run", f"there is no report of the step `{criterion.report}`")
    result = _against_report(criterion, report, model=model, evidence=evidence)
    if result.value is None or result.verdict == "fail":
        return result
    for earlier in history.reports.get(criterion.report, ()):
        if earlier.digest == report.digest or not _same_conditions(earlier, report):
            continue
        before = _against_report(criterion, earlier, model=None, evidence=evidence)
        if before.verdict == "fail":
            message = (
                f"{result.reason}, but an earlier report of this test failed ({before.reason}); waive it to continue"
            )
            return replace(result, verdict="fail", reason=message)
    first = history.measured_at(criterion, report)
    if first is not None and first < since:
        message = (
            "the criterion was set or changed after these weights were first measured for this figure; "
            f"it applies to weights that are measured from then on. "
            f"For these, `vita waive --bar {criterion.name}` is needed"
        )
        return replace(result, verdict="could_not_run", reason=message)
    return result


def _same_conditions(earlier: ReportEvidence, current: ReportEvidence) -> bool:
    """Return True if two reports have the same version of the test and the same guard."""
    if earlier.version != current.version:
        return False
    try:
        earlier_settings, settings = read_report(earlier.folder).settings, read_report(current.folder).settings
    except VitaError:
        return False
    return earlier_settings.get("guard") == settings.get("guard")


def _against_report(
    criterion: Criterion, report: ReportEvidence, *, model: str | None, evidence: Mapping[str, ReportEvidence]
) -> CriterionResult:
    """Return the verdict of one report on a criterion, without regard to times."""
    try:
        measured_model = read_report(report.folder).model
        if model is not None and measured_model != model:
            other = f"it is of the weights {str(measured_model)[:12]}, not of {model[:12]}"
            return CriterionResult(criterion, "could_not_run", other, report.digest)
        value = figure(report.folder, criterion.figure).interval
        if value.n == 0 or not math.isfinite(value.value):
            return CriterionResult(criterion, "could_not_run", _why_nothing(report.folder, criterion), report.digest)
        if criterion.not_worse_than is None:
            message = str(value) if value.is_determined or criterion.by == "value" else f"{value}; {TOO_FEW}"
            return CriterionResult(criterion, _against(criterion, value), message, report.digest, value)
        other = evidence.get(criterion.not_worse_than)
        if other is None:
            missing = f"there is no report of the step `{criterion.not_worse_than}`"
            return CriterionResult(criterion, "could_not_run", missing, report.digest, value)
        gain = _gain(criterion, report.folder, other.folder)
        verdict = _above(gain, -criterion.margin, by=criterion.by)
        return CriterionResult(
            criterion, verdict, f"{value}; {_change_phrase(gain, criterion.not_worse_than)}", report.digest, value
        )
    except VitaError as error:
        return CriterionResult(criterion, "could_not_run", str(error), report.digest)


def _why_nothing(folder: Path, criterion: Criterion) -> str:
    """Return the reason why a figure has no measurement, as given by the report if possible."""
    reason = read_report(folder).could_not_run.get(criterion.figure.split("/")[0])
    return f"the figure has no measurement: {reason}" if reason else "the figure has no measurement"


def _against(criterion: Criterion, value: Interval) -> Verdict:
    if criterion.at_least is not None:
        return _above(value, criterion.at_least, by=criterion.by)
    assert criterion.at_most is not None, "a criterion has one limit"
    return _above(_negated(value), -criterion.at_most, by=criterion.by)


def _above(value: Interval, limit: float, *, by: str) -> Verdict:
    low, high = (value.value, value.value) if by == "value" else (value.low, value.high)
    if low >= limit:
        return "pass"
    return "fail" if high < limit else "unsure"


def _gain(criterion: Criterion, folder: Path, other: Path) -> Interval:
    """Return the improvement over the other model, on paired items if both reports have them."""
    after = figure(folder, criterion.figure)
    lower = after.higher_is_better is False if criterion.lower_is_better is None else criterion.lower_is_better
    pairs = paired(other, folder, criterion.figure)
    gain = pairs.difference if pairs else difference(after.interval, figure(other, criterion.figure).interval)
    return _negated(gain) if lower else gain


def _change_phrase(gain: Interval, other: str) -> str:
    """Name the direction of a change, with a magnitude that is never negative."""
    if gain.value < 0:
        return f"worse than {other} by {_negated(gain)}"
    return f"better than {other} by {gain}" if gain.value > 0 else f"equal to {other}, difference {gain}"


def _negated(value: Interval) -> Interval:
    return Interval(-value.value, -value.high, -value.low, value.n)


def _or_waived(result: CriterionResult, waived: Mapping[str, str]) -> CriterionResult:
    why = waived.get(result.criterion.identity)
    if why is None or result.verdict == "pass":
        return result
    message = f"{result.verdict}: {result.reason}; waived by {why}"
    return CriterionResult(result.criterion, "waived", message, result.report, result.value)
