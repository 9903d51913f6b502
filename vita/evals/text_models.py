"""Evaluation of classifiers and embedding models on labelled texts and pairs, with a record per item.

results = TextModelResults(seed=0)
results.classify(model, "sst2", Source(path="sst2.jsonl"), limit=1000)
results.retrieve(model, "pairs", Source(path="pairs.jsonl"), limit=1000)
results.figures()["classification"]["sst2"]["accuracy"]
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from vita.data.sources.columns import LabelColumns, PairColumns
from vita.data.sources.read import labelled_texts, text_pairs
from vita.data.sources.source import Source
from vita.data.tokens.label_scheme import LabelScheme, Target
from vita.evals.classification import ClassifierResults, evaluate_logits
from vita.evals.retrieval import match_ranks, retrieval_figures, similarity_figures
from vita.infer.text_model import TextModel, TextRequest
from vita.stats.intervals import Interval

T = TypeVar("T")
SIMILAR_SHARE = 0.5
"""Share of the largest similarity from which a pair matches."""


@dataclass
class TextModelResults:
    """The figures and items of one model."""

    seed: int = 0
    classified: dict[str, ClassifierResults] = field(default_factory=dict)
    embedded: dict[str, dict[str, Interval]] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    names: tuple[str, ...] = ()
    """Names of the classes of the classifier."""

    def classify(
        self,
        model: TextModel,
        name: str,
        source: Source,
        *,
        columns: LabelColumns | None = None,
        limit: int | None = None,
    ) -> None:
        """Compare the classifier's predictions with the labels of a source."""
        assert model.labels is not None
        records = _sample(list(labelled_texts(source, columns)), limit, seed=self.seed)
        problem = model.labels.problem or "regression"
        scheme = LabelScheme.of(
            [record.label for record in records],
            problem=problem,
            names=() if problem == "regression" else model.labels.labels,
        )
        targets: list[Target] = [
            scheme.target(record.label, where=f"{record.source}: {record.id}") for record in records
        ]
        encoded = model.encoder().encode([record.texts for record in records])
        logits = torch.stack(model.compute([TextRequest(text, "classification") for text in encoded])).numpy()
        results = evaluate_logits(logits, targets, scheme, train_targets=targets, seed=self.seed)
        self.classified[name], self.names = results, model.labels.labels
        for record, target, row in zip(records, targets, logits, strict=True):
            item: dict[str, Any] = {"task": name, "id": record.id, "actual": target}
            if problem == "regression":
                item["predicted"] = round(float(row[0]), 6)
            elif problem == "single":
                predicted = int(row.argmax())
                item |= {"predicted": predicted, "accuracy": predicted == target, "answer": self.names[predicted]}
            else:
                chosen = tuple(np.flatnonzero(row > 0).tolist())
                item |= {"predicted": chosen, "accuracy": chosen == target}
            self.items.append(item)

    def retrieve(
        self,
        model: TextModel,
        name: str,
        source: Source,
        *,
        columns: PairColumns | None = None,
        limit: int | None = None,
    ) -> None:
        """Search the matching text of each anchor among those of all pairs, and correlate similarities."""
        pairs = _sample(list(text_pairs(source, columns)), limit, seed=self.seed)
        largest = max((pair.score for pair in pairs if pair.score is not None), default=0.0)
        similar = [pair for pair in pairs if pair.score is None or pair.score >= SIMILAR_SHARE * largest]
        figures: dict[str, Interval] = {}
        if similar:
            candidates = list(dict.fromkeys(text for pair in similar for text in (pair.positive, *pair.negatives)))
            positives: dict[str, set[str]] = {}
            for pair in similar:
                positives.setdefault(pair.anchor, set()).add(pair.positive)
            matches = np.array([[text in positives[pair.anchor] for text in candidates] for pair in similar])
            anchors, vectors = (_unit(model, texts) for texts in ([pair.anchor for pair in similar], candidates))
            ranks = match_ranks(anchors, vectors, matches)
            figures |= retrieval_figures(ranks)
            self.items += [
                {"task": name, "id": pair.id, "rank": int(rank), "accuracy": bool(rank <= 1)}
                for pair, rank in zip(similar, ranks, strict=True)
            ]
        scored = [pair for pair in pairs if pair.score is not None]
        if len(scored) > 1:
            first, second = (_unit(model, [getattr(pair, side) for pair in scored]) for side in ("anchor", "positive"))
            scores = [pair.score or 0.0 for pair in scored]
            figures |= similarity_figures(first, second, scores, seed=self.seed)
        self.embedded[name] = figures

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return the figures by group and name."""
        classified = {name: results.figures for name, results in self.classified.items()}
        groups = {"classification": classified, "embedding": dict(self.embedded)}
        return {name: values for name, values in groups.items() if values}

    def content(self) -> dict[str, Any]:
        """Return the confusion matrices for the page of the report."""
        return {
            f"Confusion matrix: {name}": results.table(self.names)
            for name, results in self.classified.items()
            if results.matrix is not None
        }


def _unit(model: TextModel, texts: Sequence[str]) -> np.ndarray:
    return torch.nn.functional.normalize(model.embed(texts), dim=-1).numpy()


def _sample(records: Sequence[T], limit: int | None, *, seed: int) -> list[T]:
    """Return a uniform sample of at most `limit` records, in their order."""
    if limit is None or len(records) <= limit:
        return list(records)
    return [records[index] for index in sorted(random.Random(seed).sample(range(len(records)), limit))]
