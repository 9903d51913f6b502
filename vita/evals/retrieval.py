"""Evaluation of embeddings: the rank of the matching text among candidates, and the correlation with similarities.

ranks = match_ranks(anchors, candidates, matches)
retrieval_figures(ranks)                            # recall@1, recall@5, recall@10, mrr
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from vita.stats.classification import bootstrap, spearman
from vita.stats.intervals import Interval, mcnemar, share, student

# N anchor, C candidate, D width

RECALLS = (1, 5, 10)


def match_ranks(
    anchors: Float[np.ndarray, "N D"], candidates: Float[np.ndarray, "C D"], matches: Bool[np.ndarray, "N C"]
) -> Int[np.ndarray, "N"]:
    """Return the rank of the most similar match of each anchor, from 1.

    A candidate that is as similar as the match counts as ranked before it, so that equal embeddings find nothing.
    """
    scores = anchors @ candidates.T
    best = np.where(matches, scores, -np.inf).max(1)
    return 1 + ((scores >= best[:, None]) & ~matches).sum(1)


def retrieval_figures(ranks: Int[np.ndarray, "N"]) -> dict[str, Interval]:
    """Return the recall at several depths, and the mean reciprocal rank."""
    figures = {f"recall@{depth}": share((ranks <= depth).tolist()) for depth in RECALLS}
    return {**figures, "mrr": student((1 / ranks).tolist())}


def retrieval_change(before: Int[np.ndarray, "N"], after: Int[np.ndarray, "N"]) -> dict[str, Interval]:
    """Return the change of recall@1 and of the mean reciprocal rank on the same anchors, with paired intervals."""
    change = (1 / after - 1 / before).tolist()
    return {
        "recall@1/change": mcnemar((before <= 1).tolist(), (after <= 1).tolist()).difference,
        "mrr/change": student(change),
    }


def similarity_figures(
    first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "N D"], scores: Sequence[float], *, seed: int
) -> Mapping[str, Interval]:
    """Return the Spearman correlation of cosine similarities with the similarities of the data (Agirre et al. 2012)."""
    cosines, actual = (first * second).sum(1), np.array(scores, dtype=float)
    return {"spearman": bootstrap(lambda rows: spearman(cosines[rows], actual[rows]), n=len(actual), seed=seed)}
