"""Text about steps, filled in from the catalogue of stages: title, sentence and main result."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from vita.cards.life_record import StepRecord
from vita.reporting import wording
from vita.reporting.catalogue import FIGURES_OF_ANY_STAGE, STAGES, StageText
from vita.stats.intervals import Interval


def title(step: StepRecord) -> str:
    """Return the title of a step: `Evaluation: test_base`, or `Curation` if it has the name of its stage."""
    unknown = StageText(wording.words(step.stage).capitalize() or step.kind.capitalize(), "")
    label = STAGES.get(step.stage, unknown).title
    return label if step.name == step.stage else f"{label}: {step.name}"


def sentence(step: StepRecord) -> str:
    """Return one sentence about the step."""
    if step.stage in STAGES:
        return STAGES[step.stage].sentence
    stage = f" of the stage {step.stage}" if step.stage else ""
    artifact = f" It made an artifact of kind {step.kind}." if step.kind != "missing" else ""
    return f"The step {step.name}{stage}.{artifact}"


def headline(step: StepRecord, figures: Mapping[str, Interval] | None = None) -> str:
    """Return the main result of a step; `figures` are those of its reports."""
    if step.kind == "missing":
        return "its artifact is no longer in the store"
    stage = STAGES.get(step.stage, StageText("", ""))
    for template in stage.results:
        try:
            return _Facts().vformat(template, (), step.facts)
        except (LookupError, TypeError, ValueError, AttributeError):  # a fact is missing, or of another kind
            continue
    return _main_figure(stage, figures or {}) or _main_facts(step.facts)


class _Facts(string.Formatter):
    """Formatting of facts with the formats of the catalogue."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec in ("count", "percent", "size"):
            return str(getattr(wording, format_spec)(value))
        yes, bar, no = format_spec.partition("|")
        return (yes if value else no) if bar else format(value, format_spec)


def _main_figure(stage: StageText, figures: Mapping[str, Interval]) -> str:
    for ending in (*stage.figures, *FIGURES_OF_ANY_STAGE):
        before, after = figures.get(f"{ending}/before"), figures.get(f"{ending}/after")
        if before and after:
            change = f"{wording.interval_text(ending, after)}, before {wording.interval_text(ending, before)}"
            return f"{wording.figure_name(ending)}: {change}"
        for name, interval in figures.items():
            if f"/{name}".endswith(f"/{ending}"):
                return _with_name(name, interval)
    return next((_with_name(name, interval) for name, interval in figures.items()), "")


def _with_name(name: str, interval: Interval) -> str:
    return f"{wording.figure_name(name)}: {wording.interval_text(name, interval)}"


def _main_facts(facts: Mapping[str, Any]) -> str:
    numbers = [name for name, fact in facts.items() if type(fact) in (int, float)]
    return ", ".join(f"{wording.figure_name(name)} {wording.value_text(facts[name])}" for name in numbers[:3])
