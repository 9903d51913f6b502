"""Evaluation on held-out preference pairs, before and after training: shares with intervals.

Before training all log-ratios are 0 and rank nothing. The accuracy before and after training compares the mean
log-probability per token of both answers; the log-ratio measures the change by training.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from vita.stats.intervals import Interval, bootstrap_ratio, mcnemar, share, student, wilson

BINS = 5


class PairValues(NamedTuple):
    """A value for the chosen and for the rejected answer of a pair."""

    chosen: float
    rejected: float

    @property
    def margin(self) -> float:
        """Return chosen - rejected."""
        return self.chosen - self.rejected


def compare(
    before: Sequence[PairValues],
    after: Sequence[PairValues],
    tokens: Sequence[PairValues],
    *,
    beta: float,
    prompts: Sequence[Hashable] = (),
) -> dict[str, Interval]:
    """Compare the summed log-probabilities of the same pairs under two models.

    accuracy/before, accuracy/after: share of pairs whose chosen answer has the higher mean log-probability per token;
    accuracy/change is paired. reward/accuracy, reward/margin: the DPO reward, beta x log-ratio. log_ratio/chosen: mean
    log-ratio of the chosen answers in nats; below 0 they have become less likely.
    """
    first, second = (
        [_per_token(sums, count).margin > 0 for sums, count in zip(values, tokens, strict=True)]
        for values in (before, after)
    )
    log_ratios = [PairValues(b.chosen - a.chosen, b.rejected - a.rejected) for a, b in zip(before, after, strict=True)]
    by_prompt = PromptMeans(prompts or range(len(log_ratios)))
    return {
        "accuracy/before": by_prompt.share(first),
        "accuracy/after": by_prompt.share(second),
        "accuracy/change": by_prompt.change(first, second),
        "reward/accuracy": by_prompt.share([log_ratio.margin > 0 for log_ratio in log_ratios]),
        "reward/margin": by_prompt.mean([beta * log_ratio.margin for log_ratio in log_ratios]),
        "log_ratio/chosen": by_prompt.mean([log_ratio.chosen for log_ratio in log_ratios]),
        "log_ratio/rejected": by_prompt.mean([log_ratio.rejected for log_ratio in log_ratios]),
    }


def score_figures(
    scores: Sequence[PairValues], sources: Sequence[str], prompts: Sequence[Hashable] = ()
) -> dict[str, dict[str, Interval]]:
    """Return the accuracy and margin of a reward model on preference pairs, in total and per source."""
    prompt_keys = prompts or range(len(scores))
    groups = {"all": list(range(len(scores)))}
    for source in sorted(set(sources)):
        groups[source] = [index for index, source_name in enumerate(sources) if source_name == source]
    figures: dict[str, dict[str, Interval]] = {}
    for name, indices in groups.items():
        pairs, by_prompt = [scores[index] for index in indices], PromptMeans([prompt_keys[index] for index in indices])
        figures[name] = {
            "accuracy": by_prompt.share([pair.margin > 0 for pair in pairs]),
            "margin": by_prompt.mean([pair.margin for pair in pairs]),
            "reward/chosen": by_prompt.mean([pair.chosen for pair in pairs]),
            "reward/rejected": by_prompt.mean([pair.rejected for pair in pairs]),
        }
    return figures


class PromptMeans:
    """Means with intervals over prompts, because pairs of one prompt are not independent.

    With one pair per prompt the intervals are those of single pairs. Otherwise prompts are resampled, and `n` counts
    prompts.
    """

    def __init__(self, prompts: Sequence[Hashable]) -> None:
        indices: dict[Hashable, int] = {}
        self.of_prompt = [indices.setdefault(prompt, len(indices)) for prompt in prompts]
        self.prompts = len(indices)
        self.single = self.prompts == len(self.of_prompt)

    def share(self, outcomes: Sequence[bool]) -> Interval:
        """Return the share of true outcomes."""
        if self.single:
            return share(outcomes)
        interval = self._resampled([float(outcome) for outcome in outcomes])
        if interval.low == interval.high:  # all equal: the interval for this number of prompts
            return wilson(round(interval.value * self.prompts), self.prompts)
        return interval

    def mean(self, values: Sequence[float]) -> Interval:
        """Return the mean."""
        return student(values) if self.single else self._resampled(values)

    def change(self, first: Sequence[bool], second: Sequence[bool]) -> Interval:
        """Return the paired difference of two shares, second minus first."""
        if self.single:
            return mcnemar(first, second).difference
        return self._resampled([float(b) - float(a) for a, b in zip(first, second, strict=True)])

    def _resampled(self, values: Sequence[float]) -> Interval:
        sums, counts = [0.0] * self.prompts, [0.0] * self.prompts
        for index, value in zip(self.of_prompt, values, strict=True):
            sums[index] += value
            counts[index] += 1
        return bootstrap_ratio(sums, counts, seed=0)


class CalibrationBin(NamedTuple):
    """The pairs in an interval of confidence."""

    low: float
    high: float
    confidence: float
    """Mean of sigmoid(|margin|)."""
    right: Interval

    def as_json(self) -> dict[str, Any]:
        """Return the bin as a row of a table."""
        span = f"{self.low:.1f} to {self.high:.1f}"
        mean = f"{self.confidence:.3f}"
        return {"confidence": span, "mean confidence": mean, "accuracy": str(self.right), "pairs": self.right.n}


def calibration(scores: Sequence[PairValues]) -> tuple[list[CalibrationBin], float]:
    """Return the accuracy per bin of confidence, and the expected calibration error."""
    confidences = [1 / (1 + math.exp(-min(abs(pair.margin), 700.0))) for pair in scores]
    bins, gap = list[CalibrationBin](), 0.0
    for number in range(BINS):
        low, high = 0.5 + number * 0.5 / BINS, 0.5 + (number + 1) * 0.5 / BINS
        last = number == BINS - 1
        members = [index for index, value in enumerate(confidences) if low <= value and (value < high or last)]
        if members:
            mean, right = (
                sum(confidences[index] for index in members) / len(members),
                share([scores[index].margin > 0 for index in members]),
            )
            bins.append(CalibrationBin(low, high, mean, right))
            gap += len(members) / len(scores) * abs(mean - right.value)
    return bins, gap


def _per_token(sums: PairValues, count: PairValues) -> PairValues:
    return PairValues(sums.chosen / count.chosen, sums.rejected / count.rejected)
