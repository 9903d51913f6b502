"""The results of a review: preferences with intervals, agreement of raters, and preference pairs for training.

The figures use ratings by people; judges and rules are measured by their agreement with people. Skipped items do not
count; "both bad" is a separate figure and is neither a win nor a tie.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson
import zstandard

from vita.reporting.figures import ReportContent
from vita.reporting.page import write_report_pages
from vita.review.desk import Rating, ReviewItem, ReviewTask
from vita.spine.errors import DataError
from vita.stats.agreement import agreement, group_by_unit
from vita.stats.bradley_terry import BradleyTerryFit, PairwiseVote, comparable_models, fit
from vita.stats.intervals import Interval, bootstrap_ratio, share, student, wilson

MANY_RATERS = 10
"""Smallest number of raters for which intervals resample raters; with fewer raters they resample prompts."""

_CREDIT = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class ReviewResults:
    """A task with its ratings."""

    task: ReviewTask
    items: Sequence[ReviewItem]
    ratings: Sequence[Rating]
    """The current ratings, without superseded ratings."""
    seed: int = 0

    # -- figures

    def figures(self) -> dict[str, Interval]:
        """Return the figures of the version under review, which is the first version of the task."""
        if not self._people():
            hint = f"rate with `vita review rate {self.task.name} --rater NAME` or `vita review serve`"
            raise DataError(f"review {self.task.name}", "has no ratings by people yet", hint=hint)
        task_figures = self._pairwise() if self.task.kind == "pairwise" else self._rubric(self.task.models[0].digest)
        return task_figures | self._skipped() | self._judges()

    def strengths(self) -> BradleyTerryFit | None:
        """Fit Bradley-Terry strengths of the versions compared with the first; None without comparisons."""
        votes = self._votes() if self.task.kind == "pairwise" else []
        reached = comparable_models(votes, self.task.models[0].digest)
        together = [vote for vote in votes if vote.first in reached]
        return fit(together) if together else None

    def clusters(self) -> str:
        """Return the unit of resampling of the intervals: `raters`, or `prompts` if there are few raters."""
        return "raters" if len({rating.rater for rating in self._people()}) >= MANY_RATERS else "prompts"

    def _pairwise(self) -> dict[str, Interval]:
        first = self.task.models[0].digest
        credit = self._credit(first)
        decided = [rating for rating in self._people() if rating.choice in ("a", "b")]
        ratings = [rating for rating in self._people() if rating.choice != "skip"]
        figures = {
            "preferred": _clustered(credit, seed=self.seed),
            "both_bad": share([rating.choice == "both_bad" for rating in ratings]),
            "tie": share([rating.choice == "tie" for rating in ratings]),
            # 0.5 is no bias: the order is by chance, so the left is as often the better one.
            "left": share([rating.shown_order[0] == "ab".index(rating.choice or "a") for rating in decided]),
        }
        fitted = self.strengths()
        if fitted and first in fitted.models:
            figures["elo"] = fitted.elo()[first]
            for other in self.task.models[1:]:
                if other.digest in fitted.models:
                    figures[f"win_probability/{other.name}"] = fitted.win_probability(first, other.digest)
        units = self._units([rating for rating in ratings if rating.choice])
        return figures | agreement(units, level="nominal", seed=self.seed)

    def _rubric(self, model: str) -> dict[str, Interval]:
        figures: dict[str, Interval] = {}
        version_items = [item for item in self.items if item.answers[0].model == model]
        people = [rating for rating in self._people() if rating.choice != "skip"]
        for name in (criterion.name for criterion in self.task.guideline.criteria):
            by_item = [[r.criteria[name] for r in people if r.item == item.id] for item in version_items]
            means = [sum(levels) / len(levels) for levels in by_item if levels]
            figures[name] = _bounded(student(means), 1, 5)
            all_units = group_by_unit([(r.rater, str(r.item), r.criteria[name]) for r in people])
            agreements = agreement(all_units, level="ordinal", seed=self.seed)
            figures |= {f"{name}/{measure}": interval for measure, interval in agreements.items()}
        return figures

    def _skipped(self) -> dict[str, Interval]:
        return {"skipped": share([rating.choice == "skip" for rating in self._people()])}

    def _judges(self) -> dict[str, Interval]:
        """Return the agreement of each judge with the majority of people, on items with a clear majority."""
        if self.task.kind != "pairwise":
            return {}
        people = self.majority()
        figures: dict[str, Interval] = {}
        for judge in sorted({rating.rater for rating in self.ratings if rating.rater_kind != "human"}):
            choices = {r.item: r.choice for r in self.ratings if r.rater == judge and r.choice in ("a", "b", "tie")}
            shared_items = [item for item in choices if people.get(item) in ("a", "b", "tie")]
            units = {str(item): {"judge": choices[item], "people": people[item]} for item in shared_items}
            if units:
                figures |= {
                    f"{judge}/{name}": interval
                    for name, interval in agreement(units, level="nominal", seed=self.seed).items()
                }
        return figures

    # -- votes

    def majority(self) -> dict[int, str]:
        """Return item -> the choice of most people; an item without a clear majority is left out."""
        majorities: dict[int, str] = {}
        for item in self.items:
            counts = Counter(r.choice for r in self._people() if r.item == item.id and r.choice not in (None, "skip"))
            most_common = counts.most_common(2)
            if most_common and (len(most_common) == 1 or most_common[0][1] > most_common[1][1]):
                majorities[item.id] = str(most_common[0][0])
        return majorities

    def pairs(self) -> list[dict[str, Any]]:
        """Return preference pairs for training: one for each item on which people prefer one answer.

        `margin` is the difference of both shares of the votes, with ties in the total. Ties are left out, and so is an
        item with at least as many "both bad" votes as votes for one answer.
        """
        if self.task.kind != "pairwise":
            raise DataError(f"review {self.task.name}", expected="a pairwise task to export pairs from", got="a rubric")
        pairs: list[dict[str, Any]] = []
        for item in self.items:
            votes = Counter(r.choice for r in self._people() if r.item == item.id and r.choice not in (None, "skip"))
            if votes["a"] == votes["b"] or votes["both_bad"] >= max(votes["a"], votes["b"]):
                continue
            better, worse = item.answers if votes["a"] > votes["b"] else reversed(item.answers)
            if better.text == worse.text:
                continue
            decided = votes["a"] + votes["b"] + votes["tie"] + votes["both_bad"]
            pairs.append(
                {
                    "id": f"{self.task.name}/{item.item}",
                    "prompt": [{"role": message.role, "content": message.content} for message in item.prompt],
                    "chosen": [{"role": "assistant", "content": better.text}],
                    "rejected": [{"role": "assistant", "content": worse.text}],
                    "margin": abs(votes["a"] - votes["b"]) / decided,
                    "metadata": {
                        "votes": dict(sorted((str(name), count) for name, count in votes.items())),
                        "models": [better.model, worse.model],
                        "guideline": self.task.guideline.version,
                    },
                }
            )
        return pairs

    def _people(self) -> list[Rating]:
        return [rating for rating in self.ratings if rating.rater_kind == "human"]

    def _units(self, ratings: Sequence[Rating]) -> Mapping[str, Mapping[str, Any]]:
        return group_by_unit([(rating.rater, str(rating.item), rating.choice) for rating in ratings])

    def _votes(self) -> list[PairwiseVote]:
        by_id = {item.id: item for item in self.items}
        by_raters = self.clusters() == "raters"
        votes: list[PairwiseVote] = []
        for rating in self._people():
            if rating.choice in _CREDIT:
                item = by_id[rating.item]
                cluster = rating.rater if by_raters else _prompt_key(item)
                first, second = (answer.model for answer in item.answers)
                votes.append(PairwiseVote(first, second, _CREDIT[rating.choice], cluster))
        return votes

    def _credit(self, model: str) -> dict[str, list[float]]:
        """Return cluster -> the credit of the model for each vote; a tie counts half."""
        credits_by_cluster: dict[str, list[float]] = {}
        for vote in self._votes():
            if model in (vote.first, vote.second):
                credits_by_cluster.setdefault(vote.cluster, []).append(
                    vote.outcome if vote.first == model else 1 - vote.outcome
                )
        return credits_by_cluster

    # -- the report

    def write(self, folder: Path) -> dict[str, float]:
        """Write `report.json`, `report.md`, `report.html` and `items.jsonl.zst`; return the figures as facts."""
        figures = self.figures()
        groups: dict[str, dict[str, Mapping[str, Interval]]] = {"review": {"review": figures}}
        if fitted := self.strengths():
            groups["strengths"] = {self._name(model): {"elo": interval} for model, interval in fitted.elo().items()}
        if self.task.kind == "rubric":
            groups["versions"] = {version.name: self._rubric(version.digest) for version in self.task.models}
        task = {
            "name": self.task.name,
            "kind": self.task.kind,
            "models": {version.name: version.digest for version in self.task.models},
            "guideline": self.task.guideline.version,
            "raters": len({rating.rater for rating in self._people()}),
            "ratings": len(self._people()),
            "items": len(self.items),
            "clusters": self.clusters(),
        }
        report = ReportContent.of("review", groups, model=self.task.models[0].digest, details={"task": task})
        lines = b"".join(orjson.dumps(row) + b"\n" for row in self._rows())
        (folder / "items.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=9).compress(lines))
        lead = f"Figures are about {self.task.models[0].name}; intervals have a confidence of 95%."
        content = self._page_content(fitted)
        write_report_pages(report, folder, title=f"Review: {self.task.name}", lead=lead, content=content)
        facts = {f"review/{name}": round(interval.value, 6) for name, interval in figures.items()}
        return {name: value for name, value in facts.items() if math.isfinite(value)}

    def _rows(self) -> list[dict[str, Any]]:
        majority = self.majority() if self.task.kind == "pairwise" else {}
        rows: list[dict[str, Any]] = []
        for item in self.items:
            item_ratings = [rating for rating in self.ratings if rating.item == item.id]
            preferred = {"a": True, "b": False}.get(majority.get(item.id, ""))
            rows.append(
                {
                    "task": "review",
                    "group": "",
                    "id": item.item,
                    "prompt": "\n".join(f"{message.role}: {message.content}" for message in item.prompt),
                    "answers": [answer.text for answer in item.answers],
                    "models": [answer.model for answer in item.answers],
                    **({} if preferred is None else {"preferred": preferred}),
                    "ratings": [
                        {"rater_kind": rated.rater_kind, "choice": rated.choice, "criteria": dict(rated.criteria),
                         "shown_order": rated.shown_order, "milliseconds": rated.milliseconds}
                        for rated in item_ratings
                    ],
                }
            )  # fmt: skip
        return rows

    def _page_content(self, fitted: BradleyTerryFit | None) -> dict[str, Any]:
        """Return the parts of the report that only its page shows: preferences, raters and the method."""
        preferences = [
            {"preference": f"{self._name(a)} over {self._name(b)}", "probability": str(fitted.win_probability(a, b))}
            for a, b in combinations(fitted.models, 2)
        ] if fitted else []  # fmt: skip
        smoothed = "One virtual tie was added to each pair, because a version only won or only lost."
        raters = []
        for rater in sorted({rating.rater for rating in self.ratings}):
            ratings = [rating for rating in self.ratings if rating.rater == rater]
            times = sorted(rating.milliseconds / 1000 for rating in ratings if rating.milliseconds is not None)
            raters.append({"rater": rater, "kind": ratings[0].rater_kind, "ratings": len(ratings),
                           "median seconds": f"{times[len(times) // 2]:.1f}" if times else ""})  # fmt: skip
        method = [
            f"Intervals treat {self.clusters()} as independent, and ratings within one of them as dependent.",
            "Raters did not know the version of an answer; the order was random for each rater and item.",
            "NAME/alpha and NAME/raw agreement of a judge: with the majority of people.",
            f"Guideline {self.task.guideline.version}: {self.task.guideline.text}",
        ]
        strength = [preferences, *([smoothed] if fitted and fitted.smoothed else [])]
        return {"Strength": strength, "Raters": raters, "Method": method}

    def _name(self, model: str) -> str:
        return next(version.name for version in self.task.models if version.digest == model)


def _clustered(credit: Mapping[str, Sequence[float]], *, seed: int) -> Interval:
    """Return the mean credit of a vote, resampling clusters; Wilson's interval over clusters if all votes are equal."""
    sums, counts = [sum(credits) for credits in credit.values()], [len(credits) for credits in credit.values()]
    if not counts:
        return wilson(0, 0)
    if sum(sums) in (0, sum(counts)):
        return wilson(len(counts) if sum(sums) else 0, len(counts))
    return bootstrap_ratio(sums, counts, seed=seed)


def _bounded(interval: Interval, low: float, high: float) -> Interval:
    return Interval(interval.value, max(low, interval.low), min(high, interval.high), interval.n)


def _prompt_key(item: ReviewItem) -> str:
    return json.dumps([[message.role, message.content] for message in item.prompt])
