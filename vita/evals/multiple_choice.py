"""Likelihood ranking and exact continuation, with a record for every item.

The token boundary, the cut of what is too long, and the metrics are those of lm-evaluation-harness, under its names:

    acc         the option with the highest sum of log-probabilities is the right one
    acc_norm    the same after dividing each sum by the option's length in characters
    acc_bytes   ... by its length in UTF-8 bytes (equal to acc_norm on ASCII)

Of equal sums the first wins, as there.
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
from vita.evals.task import Choice, Cloze, Item
from vita.stats.intervals import Interval, share, student


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the model did on one item; `correct` holds a verdict per metric."""

    id: str
    group: str
    logprobs: tuple[float, ...]
    chance: float
    correct: dict[str, bool]
    cut: bool
    """Part of the context did not fit."""
    item: str
    """A digest of what was asked, by which two reports know the same item."""

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "group": self.group,
            "logprobs": [round(value, 6) for value in self.logprobs],
            **self.correct,
            "cut": self.cut,
            "item": self.item,
        }


def answer(scorer: Scorer, items: Sequence[Item], *, encode: Encode, prefix: int, context: int) -> list[Outcome]:
    """An outcome per item, in order."""
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
    outcomes: list[Outcome] = []
    for item, of_options, was_cut in zip(items, spans, cut, strict=True):
        sums = tuple(math.fsum(score.logprob for score in scores[start:stop]) for start, stop in of_options)
        greedy = all(score.greedy for score in scores[of_options[0][0] : of_options[0][1]])
        chance = 1 / len(item.options) if isinstance(item, Choice) else 0.0
        verdicts = _verdicts(item, sums, greedy)
        outcomes.append(Outcome(item.id, item.group, sums, chance, verdicts, was_cut, _digest(item)))
    return outcomes


def _digest(item: Item) -> str:
    """Of its contexts and options, whatever their file and place in it."""
    return hashlib.sha256(json.dumps(_options(item)).encode()).hexdigest()[:16]


def encode_pair(context: str, continuation: str, *, encode: Encode, prefix: int) -> Pair:
    """Token ids of both parts: encoded as one text and split where the context alone would end.

    Spaces at the end of the context go to the continuation, since words carry their space in front. After an empty
    context the first token is conditioned on the one that begins every document.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if not bare:
        return [prefix], encode(continuation)
    whole, before = encode(bare + continuation), encode(bare)
    # Where one token spans the boundary nothing is left to score; then the parts are encoded apart.
    return before, whole[len(before) :] or encode(continuation)


def metrics(outcomes: Sequence[Outcome]) -> dict[str, Interval]:
    """Every metric over the items, with its interval; `perplexity` of the continuation for cloze items."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.correct))
    found = {name: share([outcome.correct[name] for outcome in outcomes if name in outcome.correct]) for name in names}
    cloze = [outcome.logprobs[0] for outcome in outcomes if len(outcome.logprobs) == 1]
    if cloze:
        mean = student(cloze)
        found["perplexity"] = Interval(_exp(-mean.value), _exp(-mean.high), _exp(-mean.low), mean.n)
    return found


def by_group(outcomes: Sequence[Outcome]) -> dict[str, Interval]:
    """`acc` in each group of items that has a name."""
    groups = sorted({outcome.group for outcome in outcomes if outcome.group})
    return {group: share([o.correct["acc"] for o in outcomes if o.group == group]) for group in groups}


def _options(item: Item) -> tuple[tuple[str, str], ...]:
    return item.options if isinstance(item, Choice) else ((item.context, item.continuation),)


def _fitting(before: list[int], after: list[int], *, context: int) -> Iterator[Pair]:
    """The pair cut from the left to what the model reads at once; a continuation longer than that, in windows."""
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
