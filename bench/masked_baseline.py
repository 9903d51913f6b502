"""Masked accuracy of an encoder beside an untrained one and the frequencies of single tokens, on held-out documents.

    python -m bench.masked_baseline CORPUS TOKENS --model TRAINED --control UNTRAINED

The arguments are folders of artifacts (`vita show NAME`). The baseline predicts each token with its share of the
training tokens, so its accuracy is that of the most frequent token. All models predict the same masked tokens.
Differences are paired by document, with a bootstrap interval (95%).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vita.data.curation.corpus import read_corpus
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.evals.masked import MaskedQuery, MaskedScorer, score_masked
from vita.evals.masked_scores import MaskedDocument, masked_figures
from vita.infer.pretrained import Pretrained
from vita.stats.intervals import bootstrap_ratio


class UnigramScorer(MaskedScorer):
    """Predicts each token with its share of the training tokens, with one more occurrence of each."""

    def __init__(self, tokens: Path, context: int) -> None:
        shards = Shards.open(tokens / "train")
        self.tokenizer = Tokenizer.load(tokens / "tokenizer")
        self.model = cast(Any, SimpleNamespace(architecture=SimpleNamespace(context=context)))
        counts = np.ones(self.tokenizer.vocabulary)
        for start in range(0, shards.tokens, 2**20):
            part = shards.read(start, min(start + 2**20, shards.tokens))
            counts += np.bincount(part, minlength=len(counts))
        counts[list(self.tokenizer.special_ids)] = 1
        self._logprobs = torch.from_numpy(np.log(counts / counts.sum()))

    def logprobs(self, queries: Sequence[MaskedQuery]) -> list[Float[Tensor, "N V"]]:
        return [self._logprobs.expand(len(query.positions), -1) for query in queries]


def compare(scores: dict[str, list[MaskedDocument]], model: str) -> list[dict[str, Any]]:
    """Return the figures of each model, and the paired differences of `model` from the others in points."""
    rows: list[dict[str, Any]] = []
    for name, documents in scores.items():
        row: dict[str, Any] = {"model": name, "documents": len(documents)}
        for figure, interval in masked_figures(documents).items():
            row[figure] = {"value": interval.value, "low": interval.low, "high": interval.high}
        if name != model:
            pairs = list(zip(scores[model], documents, strict=True))
            interval = bootstrap_ratio(
                [own.correct - other.correct for own, other in pairs], [own.masked for own, _ in pairs], seed=0
            )
            row["points_below"] = {key: round(100 * getattr(interval, key), 2) for key in ("value", "low", "high")}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True, help="the untrained model")
    parser.add_argument("--mask-rate", type=float, default=0.15)
    options = parser.parse_args()
    documents = list(read_corpus(options.corpus, "heldout"))
    scorers: dict[str, MaskedScorer] = {}
    for name, folder in (("trained", options.model), ("untrained", options.control)):
        pretrained = Pretrained.load(folder)
        scorers[name] = MaskedScorer(pretrained.model, pretrained.tokenizer)
    scorers["unigram"] = UnigramScorer(options.tokens, scorers["trained"].model.architecture.context)
    scores = {name: list(score_masked(scorer, documents, rate=options.mask_rate)) for name, scorer in scorers.items()}
    for row in compare(scores, "trained"):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
