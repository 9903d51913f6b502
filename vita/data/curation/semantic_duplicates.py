"""Search of documents whose embeddings are close to that of an earlier document.

    search = nearest_kept(embeddings, threshold=0.95, references=100)
    search.dropped          # documents whose cosine with an earlier kept document is at least the threshold

As in SemDeDup (Abbas et al. 2023), one document of a group of close ones stays: the first. All pairs are compared
instead of the pairs inside clusters, so no pair is missed; N documents of D numbers take N * N * D operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

BLOCK_DOCUMENTS = 1024
"""Documents that are compared at once with the earlier ones; limits the memory of the cosines."""
_DECIMALS = 5
"""Cosines are rounded, so that the order of floating-point sums does not decide."""


@dataclass(frozen=True)
class NearestKept:
    """For each document, the nearest earlier document that is kept."""

    index: Int64[np.ndarray, "N"]
    """Index of the nearest kept document before it; -1 for the references and the first document."""
    cosine: Float32[np.ndarray, "N"]
    """Cosine with that document; -1 without one."""
    dropped: Bool[np.ndarray, "N"]


def nearest_kept(embeddings: Float32[np.ndarray, "N D"], *, threshold: float, references: int = 0) -> NearestKept:
    """Return the nearest kept document of each document, in order; `embeddings` have length 1.

    The first `references` documents, such as those held out, are kept without a comparison.
    """
    total = len(embeddings)
    index, cosine = np.full(total, -1), np.full(total, -1.0, np.float32)
    dropped = np.zeros(total, bool)
    for start in range(references, total, BLOCK_DOCUMENTS):
        stop = min(start + BLOCK_DOCUMENTS, total)
        block = np.asarray(embeddings[start:stop])
        for first in range(0, start, BLOCK_DOCUMENTS):
            last = min(first + BLOCK_DOCUMENTS, start)
            cosines = np.round(block @ np.asarray(embeddings[first:last]).T, _DECIMALS)
            cosines[:, dropped[first:last]] = -1
            nearest = cosines.argmax(1)
            values = cosines[np.arange(len(block)), nearest]
            is_nearer = values > cosine[start:stop]
            cosine[start:stop][is_nearer] = values[is_nearer]
            index[start:stop][is_nearer] = nearest[is_nearer] + first
        inside = np.round(block @ block.T, _DECIMALS)
        for row in range(len(block)):
            if row and (candidates := np.flatnonzero(~dropped[start : start + row])).size:
                nearest = candidates[inside[row, candidates].argmax()]
                if inside[row, nearest] > cosine[start + row]:
                    cosine[start + row], index[start + row] = inside[row, nearest], start + nearest
            dropped[start + row] = cosine[start + row] >= threshold
    return NearestKept(index, cosine, dropped)
