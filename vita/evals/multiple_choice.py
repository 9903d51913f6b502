"""Likelihood ranking and exact continuation, with a record for every item.

The token boundary, the truncation of long contexts and the metrics are those of lm-evaluation-harness:

    acc         the option with the highest sum of log-probabilities is correct
    acc_norm    the same after dividing each sum by the option's length in characters
    acc_bytes   ... by its length in UTF-8 bytes (equal to acc_norm on ASCII)

The first of equal sums wins, as in lm-evaluation-harness.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vita.evals.perplexity import windows
from vita.evals.scorer import Encode, Pair, Scorer
from vita.evals.task import Cloze, Item, MultipleChoice
from vita.stats.intervals import Interval, share, student


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The result of one item; `correct` holds a verdict per metric."""

    id: str
    group: str
    logprobs: tuple[float, ...]
    chance: float
    correct: dict[str, bool]
    cut: bool
    """The context was truncated."""
    item: str
    """The digest of the question, by which two reports identify the same item."""

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "group": self.group,
            "logprobs": [round(value, 6) for value in self.logprobs],
            **self.correct,
            "cut": self.cut,
            "item": self.item,
        }


def answer(scorer: Scorer, items: Sequence[Item], *, encode: Encode, prefix: int, context: int) -> list[ItemResult]:
    """Score all items and return an outcome per item, in order."""
    requests: list[Pair] = []
    spans: list[list[tuple[int, int]]] = []
    cut: list[bool] = []
    for item in items:
        pairs = [encode_pair(*option, encode=encode, prefix=prefix) for option in _options(item)]
        cut.append(any(len(before) + len(after) > context + 1 for before, after in pairs))
        spans.append([])
        for before, after in pairs:
            start = len(requests)
            requests.extend(_fitting(before, after, context=context))
            spans[-1].append((start, len(requests)))
    scores = scorer.score(requests)
    outcomes: list[ItemResult] = []
    for item, option_spans, was_cut in zip(items, spans, cut, strict=True):
        sums = tuple(math.fsum(score.logprob for score in scores[start:stop]) for start, stop in option_spans)
        greedy = all(score.greedy for score in scores[option_spans[0][0] : option_spans[0][1]])
        chance = 1 / len(item.options) if isinstance(item, MultipleChoice) else 0.0
        verdicts = _verdicts(item, sums, greedy)
        outcomes.append(ItemResult(item.id, item.group, sums, chance, verdicts, was_cut, _digest(item)))
    return outcomes


def _digest(item: Item) -> str:
    """Return the digest of the contexts and options, independent of the file and the position in it."""
    return hashlib.sha256(json.dumps(_options(item)).encode()).hexdigest()[:16]


def encode_pair(context: str, continuation: str, *, encode: Encode, prefix: int) -> Pair:
    """Return the token ids of both parts: encoded as one text and split where the context alone ends.

    Trailing spaces of the context move to the continuation, because tokens of words begin with their space. After an
    empty context, the first token is conditioned on the token that begins every document.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if not bare:
        return [prefix], encode(continuation)
    joined, before = encode(bare + continuation), encode(bare)
    # If one token spans the boundary, no token is left to score; then both parts are encoded separately.
    return before, joined[len(before) :] or encode(continuation)


def metrics(outcomes: Sequence[ItemResult]) -> dict[str, Interval]:
    """Return every metric with its interval; for cloze items also the `perplexity` of the continuation."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.correct))
    intervals = {
        name: share([outcome.correct[name] for outcome in outcomes if name in outcome.correct]) for name in names
    }
    cloze = [outcome.logprobs[0] for outcome in outcomes if len(outcome.logprobs) == 1]
    if cloze:
        mean = student(cloze)
        intervals["perplexity"] = Interval(_exp(-mean.value), _exp(-mean.high), _exp(-mean.low), mean.n)
    return intervals


def by_group(outcomes: Sequence[ItemResult]) -> dict[str, Interval]:
    """Return `acc` for each named group of items."""
    groups = sorted({outcome.group for outcome in outcomes if outcome.group})
    return {group: share([o.correct["acc"] for o in outcomes if o.group == group]) for group in groups}


def _options(item: Item) -> tuple[tuple[str, str], ...]:
    return item.options if isinstance(item, MultipleChoice) else ((item.context, item.continuation),)


def _fitting(before: list[int], after: list[int], *, context: int) -> Iterator[Pair]:
    """Truncate the pair from the left to the context size; split a longer continuation into windows."""
    if len(after) <= context:
        yield before[max(0, len(before) + len(after) - context - 1) :], after
    else:
        yield from windows(after, prefix=before[-1], context=context)


def _verdicts(item: Item, sums: tuple[float, ...], greedy: bool) -> dict[str, bool]:
    if isinstance(item, Cloze):
        return {"acc": greedy}
    verdicts = {"acc": _likeliest(sums) == item.gold}
    if item.texts is not None:
        characters = [total / len(text) for total, text in zip(sums, item.texts, strict=True)]
        utf8 = [total / len(text.encode()) for total, text in zip(sums, item.texts, strict=True)]
        verdicts |= {"acc_norm": _likeliest(characters) == item.gold, "acc_bytes": _likeliest(utf8) == item.gold}
    return verdicts


def _likeliest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
