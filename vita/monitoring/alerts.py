"""Alert rules for the figures of a service: a figure, a threshold, and the duration of the violation.

    alerts:
      - {name: slow, figure: latency_p95, above: 5, for: 5 min, severity: page}
      - {name: rude, figure: thumbs_up_rate, below: 0.5, version: "cat:2", at_least: 20}

A rule fires if its figure violates the threshold at all of its evaluation times (`evaluation_times`), which depend only
on the duration of the rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vita.monitoring.drift_checks import DRIFT_FIGURES
from vita.monitoring.request_log import FIGURES
from vita.spine.config import Settings, alternatives, build, nearest, read_yaml

ALERT_FIGURES = (*FIGURES, *DRIFT_FIGURES)
"""The figures that a rule can name."""
EVALUATIONS_PER_WINDOW = 5
"""Number of earlier evaluation times of a rule with a duration."""
Figures = Mapping[str, Mapping[str, float | None]]
"""Version -> figure -> value."""


class AlertRule(Settings):
    """The rule of one alert."""

    name: str = Field(min_length=1)
    """Name of the alert."""
    figure: str
    """Figure of `vita monitor`."""
    above: float | None = None
    """The rule fires if the figure is above this value."""
    below: float | None = None
    """The rule fires if the figure is below this value."""
    seconds: float = Field(default=0.0, ge=0, alias="for")
    """Time for which the condition must hold: seconds, or `5 min`, `1 h`."""
    severity: Literal["note", "warn", "page"] = "warn"
    """Severity of the alert."""
    version: str | None = None
    """Version to which the rule applies; all versions by default."""
    at_least: int = Field(default=1, ge=0)
    """Minimum number of requests for the rule to fire."""

    @field_validator("figure")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ALERT_FIGURES:
            close = nearest(value, ALERT_FIGURES)
            hint = f"did you mean `{close}`?" if close else alternatives(ALERT_FIGURES)
            raise ValueError(f"`{value}` is not a figure; {hint}")
        return value

    @field_validator("seconds", mode="before")
    @classmethod
    def _in_seconds(cls, value: Any) -> Any:
        return in_seconds(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_side(self) -> AlertRule:
        if (self.above is None) == (self.below is None):
            raise ValueError("set one of `above` and `below`")
        return self

    def broken_by(self, value: float | None) -> bool:
        """Return True if the value violates the rule; a missing value does not."""
        if value is None:
            return False
        return value > self.above if self.above is not None else self.below is not None and value < self.below


class AlertRules(Settings):
    """A file of rules."""

    alerts: tuple[AlertRule, ...] = Field(min_length=1)
    """The rules."""


@dataclass(frozen=True)
class Alert:
    """A rule that fires."""

    rule: AlertRule
    version: str
    value: float

    def __str__(self) -> str:
        side = f"above {self.rule.above:g}" if self.rule.above is not None else f"below {self.rule.below:g}"
        long = f" for {self.rule.seconds:g} s" if self.rule.seconds else ""
        figure = f"{self.rule.figure} is {self.value:.4g}"
        return f"{self.rule.severity}: {self.rule.name}: {self.version}: {figure}, {side}{long}"


def in_seconds(text: str) -> float:
    """Return the seconds of a duration such as `30 s`, `5 min` or `6h`; raise a ValueError for other texts."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|min|m|h|d)\s*", text)
    if not match:
        raise ValueError("expected a time such as 30 s, 5 min or 1 h")
    return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[match[2]]


def read_rules(path: str | Path) -> tuple[AlertRule, ...]:
    """Return the rules of a YAML file."""
    return build(AlertRules, read_yaml(path), where=str(path)).alerts


def evaluation_times(rules: Sequence[AlertRule], *, now: float) -> list[float]:
    """Return the times for which figures are needed, oldest first; the last is `now`."""
    spread = {
        now - rule.seconds * (1 - step / EVALUATIONS_PER_WINDOW)
        for rule in rules
        if rule.seconds
        for step in range(EVALUATIONS_PER_WINDOW)
    }
    return [*sorted(spread), now]


def firing(rules: Sequence[AlertRule], moments: Sequence[tuple[float, Figures]], *, now: float) -> list[Alert]:
    """Return the rules that fire, given the figures at several times (seconds since 1970), oldest first."""
    alerts = []
    for rule in rules:
        window = [figures_by_version for at, figures_by_version in moments if at >= now - rule.seconds]
        if rule.seconds and len(window) < 2:
            continue  # without earlier figures the duration is unknown
        for version in window[-1] if window else ():
            values = [figures_by_version.get(version, {}) for figures_by_version in window]
            enough = (values[-1].get("requests") or 0) >= rule.at_least
            applies = rule.version in (None, version)
            value = values[-1].get(rule.figure)
            if (
                applies
                and enough
                and value is not None
                and all(rule.broken_by(version_figures.get(rule.figure)) for version_figures in values)
            ):
                alerts.append(Alert(rule, version, value))
    return alerts
