"""All that was measured of a model: its figures, a page to read, and a record of every item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import zstandard

from vita.evals import edge_cases, ifeval, multiple_choice, perplexity, samples, world_knowledge
from vita.reporting.figures import ReportContent
from vita.stats.intervals import Interval
from vita.stats.paired import Versus

Metrics = Mapping[str, Interval]
"""metric -> its value and interval."""
Figures = Mapping[str, Mapping[str, Metrics]]
"""What was measured (texts, sources, tasks, groups, world, instructions, edges, versus) -> name -> metrics."""


@dataclass(frozen=True)
class Findings:
    """The items, by the name of the text or task."""

    texts: Mapping[str, list[perplexity.DocumentScore]] = field(default_factory=dict)
    tasks: Mapping[str, list[multiple_choice.Outcome]] = field(default_factory=dict)
    known: list[world_knowledge.Known] = field(default_factory=list)
    """Answers about things of the embedded world."""
    followed: list[ifeval.Followed] = field(default_factory=list)
    """Prompts with instructions that can be checked."""
    met: list[edge_cases.Met] = field(default_factory=list)
    """Edge cases."""
    continuations: list[samples.Continuation] = field(default_factory=list)
    versus: Versus | None = None
    """The same items of the parent version."""
    seed: int = 0
    """Of the resampling."""

    @property
    def sources(self) -> dict[str, list[perplexity.DocumentScore]]:
        """The documents of every source of every text."""
        return {
            f"{name}: {source}": own
            for name, scores in self.texts.items()
            for source, own in perplexity.by_source(scores).items()
        }

    def figures(self) -> Figures:
        """Everything that has a number."""
        groups = {name: multiple_choice.by_group(outcomes) for name, outcomes in self.tasks.items()}
        found: dict[str, dict[str, Metrics]] = {
            "texts": {name: self._of_text(scores) for name, scores in self.texts.items()},
            "sources": {name: self._of_text(scores) for name, scores in self.sources.items()},
            "tasks": {name: multiple_choice.metrics(outcomes) for name, outcomes in self.tasks.items()},
            "groups": {f"{name}: {group}": {"acc": one} for name, own in groups.items() for group, one in own.items()},
            "world": {"world": world_knowledge.figures(self.known)} if self.known else {},
        }
        if self.followed:
            found["instructions"] = {"instructions": ifeval.figures(self.followed, seed=self.seed)}
            found["instruction kinds"] = dict(ifeval.by_instruction(self.followed))
        if self.met:
            found["edges"] = {"edges": edge_cases.figures(self.met)}
        if self.versus:
            found["versus"] = {"versus": self.versus.figures()}
        return found

    def facts(self) -> dict[str, float]:
        """The headline numbers."""
        figures = self.figures()
        told = {
            f"{name}/{metric}": round(interval.value, 6)
            for what in ("texts", "tasks", "world", "instructions", "edges", "versus")
            for name, own in figures.get(what, {}).items()
            for metric, interval in own.items()
        }
        return {name: value for name, value in told.items() if math.isfinite(value)}

    def write_items(self, path: Path) -> None:
        """Every item in a line of its own with what it belongs to, so that two models can be compared in pairs."""
        lines = b"".join(orjson.dumps(row) + b"\n" for row in self.rows())
        path.write_bytes(zstandard.ZstdCompressor(level=9).compress(lines))

    def rows(self) -> list[dict[str, Any]]:
        """Every item with the text or task that it belongs to."""
        rows = [{"text": name, **one.as_json()} for name, scores in self.texts.items() for one in scores]
        rows += [{"task": name, **one.as_json()} for name, outcomes in self.tasks.items() for one in outcomes]
        rows += [{"task": "world", **one.as_json()} for one in self.known]
        rows += [{"task": "instructions", **one.as_json()} for one in self.followed]
        rows += [{"task": "edges", **one.as_json()} for one in self.met]
        return rows

    def report(self, *, model: str, settings: Mapping[str, Any], parent: str | None = None) -> ReportContent:
        """Return the figures, samples and changed items as a report on the model; `parent` is the earlier report."""
        details: dict[str, Any] = {"samples": [one.as_json() for one in self.continuations]}
        if parent:
            details["parent"] = parent
        if self.versus:
            details["flips"] = [flip.as_json() for flip in self.versus.flips]
        return ReportContent.of("test", self.figures(), model=model, settings=settings, details=details)

    def _of_text(self, scores: list[perplexity.DocumentScore]) -> Metrics:
        return {
            "bits_per_byte": perplexity.bits_per_byte(scores, seed=self.seed),
            "perplexity": perplexity.perplexity(scores, seed=self.seed),
        }
