"""The evaluation results of a model: figures, the report page, and a record per item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import zstandard

from vita.evals import edge_cases, ifeval, multiple_choice, needle, perplexity, samples, tool_calls, world_knowledge
from vita.evals.masked_scores import MaskedDocument, masked_figures, pseudo_figures
from vita.evals.position_loss import PositionScores, bits_by_position
from vita.reporting.figures import ReportContent
from vita.stats.intervals import Interval
from vita.stats.paired import PairedComparison


def write_items(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write one line per item."""
    lines = b"".join(orjson.dumps(item) + b"\n" for item in items)
    path.write_bytes(zstandard.ZstdCompressor(level=9).compress(lines))


TOKEN_ROWS = "validation"
"""Name of the rows of held-out tokens among the figures: `validation/loss`."""
Metrics = Mapping[str, Interval]
"""metric -> value and interval."""
Figures = Mapping[str, Mapping[str, Metrics]]
"""section (texts, tokens, sources, tasks, groups, world, instructions, tool_calls, edge_cases, versus) -> name ->
metrics."""


@dataclass(frozen=True)
class EvalResults:
    """The scored items, by the name of the text or task."""

    texts: Mapping[str, list[perplexity.DocumentScore]] = field(default_factory=dict)
    tasks: Mapping[str, list[multiple_choice.ItemResult]] = field(default_factory=dict)
    rows_of_tokens: list[perplexity.DocumentScore] = field(default_factory=list)
    """Rows of the held-out tokens of the input `tokens`."""
    answers: list[world_knowledge.WorldAnswer] = field(default_factory=list)
    """Answers about objects of the built-in world."""
    followed: list[ifeval.IFEvalResult] = field(default_factory=list)
    """Answers to prompts with verifiable instructions."""
    tool_calls: list[tool_calls.ToolCallResult] = field(default_factory=list)
    """Answers to dialogues with tools."""
    met: list[edge_cases.EdgeCaseResult] = field(default_factory=list)
    """Results of the edge cases."""
    positions: Mapping[str, list[PositionScores]] = field(default_factory=dict)
    """Long documents, scored by position."""
    needles: list[needle.NeedleResult] = field(default_factory=list)
    """Answers about needles in long texts."""
    continuations: list[samples.SampledContinuation] = field(default_factory=list)
    masked: Mapping[str, list[MaskedDocument]] = field(default_factory=dict)
    """Predictions of masked tokens of an encoder, by text; `texts` are then its pseudo-likelihoods."""
    versus: PairedComparison | None = None
    """The comparison with the parent version on the same items."""
    seed: int = 0
    """The seed of the resampling."""

    @property
    def sources(self) -> dict[str, list[perplexity.DocumentScore]]:
        """Return the document scores of every source of every text."""
        return {
            f"{name}: {source}": source_scores
            for name, scores in self.texts.items()
            for source, source_scores in perplexity.by_source(scores).items()
        }

    def figures(self) -> Figures:
        """Return all figures with their intervals."""
        groups = {name: multiple_choice.by_group(outcomes) for name, outcomes in self.tasks.items()}
        figures: dict[str, dict[str, Metrics]] = {
            "texts": {name: self._of_text(scores) | self._of_masks(name) for name, scores in self.texts.items()},
            "sources": {name: self._of_text(scores) for name, scores in self.sources.items()},
            "tasks": {name: multiple_choice.metrics(outcomes) for name, outcomes in self.tasks.items()},
            "groups": {
                f"{name}: {group}": {"acc": accuracy}
                for name, group_accuracy in groups.items()
                for group, accuracy in group_accuracy.items()
            },
            "world": {"world": world_knowledge.figures(self.answers)} if self.answers else {},
        }
        if self.rows_of_tokens:
            figures["tokens"] = self._of_tokens()
        if self.followed:
            figures["instructions"] = {"instructions": ifeval.figures(self.followed, seed=self.seed)}
            figures["instruction kinds"] = dict(ifeval.by_instruction(self.followed))
        if self.tool_calls:
            figures["tool_calls"] = {"tool_calls": tool_calls.figures(self.tool_calls)}
        if self.met:
            figures["edge_cases"] = {"edge_cases": edge_cases.figures(self.met)}
        if self.positions:
            scores = self.positions.items()
            figures["positions"] = {name: bits_by_position(texts, seed=self.seed) for name, texts in scores}
        if self.needles:
            figures["needle"] = dict(needle.figures(self.needles))
        if self.versus:
            figures["versus"] = {"versus": self.versus.figures()}
        return figures

    def facts(self) -> dict[str, float]:
        """Return the main figures as plain numbers."""
        figures = self.figures()
        sections = "texts", "tokens", "tasks", "world", "instructions", "tool_calls", "edge_cases", "needle", "versus"
        values = {
            f"{name}/{metric}": round(interval.value, 6)
            for section in sections
            for name, metrics in figures.get(section, {}).items()
            for metric, interval in metrics.items()
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def write_items(self, path: Path) -> None:
        """Write one line per item, with its text or task, so that two models can be compared in pairs."""
        write_items(path, self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return every item with the name of its text or task."""
        rows = [{"text": name, **item.as_json()} for name, scores in self.texts.items() for item in scores]
        rows += [{"text": TOKEN_ROWS, **item.as_json()} for item in self.rows_of_tokens]
        rows += [{"task": name, **item.as_json()} for name, outcomes in self.tasks.items() for item in outcomes]
        rows += [
            {"task": f"masked: {name}", **item.as_json()} for name, scores in self.masked.items() for item in scores
        ]
        rows += [{"task": "world", **item.as_json()} for item in self.answers]
        rows += [{"task": "instructions", **item.as_json()} for item in self.followed]
        rows += [{"task": "tool_calls", **item.as_json()} for item in self.tool_calls]
        rows += [{"task": "needle", **item.as_json()} for item in self.needles]
        rows += [{"task": "edge_cases", **item.as_json()} for item in self.met]
        return rows

    def report(
        self,
        *,
        model: str,
        settings: Mapping[str, Any],
        parent: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> ReportContent:
        """Return the figures, samples, changed items and further details as a report on the model.

        `parent` is the digest of the earlier report.
        """
        samples = [continuation.as_json() for continuation in self.continuations]
        content: dict[str, Any] = {"samples": samples, **(details or {})}
        if parent:
            content["parent"] = parent
        if self.versus:
            content["flips"] = [flip.as_json() for flip in self.versus.flips]
        return ReportContent.of("test", self.figures(), model=model, settings=settings, details=content)

    def _of_text(self, scores: list[perplexity.DocumentScore]) -> dict[str, Interval]:
        bits, value = perplexity.bits_per_byte(scores, seed=self.seed), perplexity.perplexity(scores, seed=self.seed)
        return pseudo_figures(bits, value) if self.masked else {"bits_per_byte": bits, "perplexity": value}

    def _of_tokens(self) -> dict[str, Metrics]:
        loss = perplexity.loss(self.rows_of_tokens, seed=self.seed)
        return {TOKEN_ROWS: {"loss": loss, **self._of_text(self.rows_of_tokens)}}

    def _of_masks(self, name: str) -> dict[str, Interval]:
        return masked_figures(self.masked[name], seed=self.seed) if name in self.masked else {}
