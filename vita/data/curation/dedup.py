"""Exact duplicates: documents equal but for case, white space and the forms of the same character (NFKC)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Int64

from vita.data.content import Keys


def first_equal(keys: Keys, *, rank: Int[np.ndarray, "N"] | None = None) -> Int64[np.ndarray, "N"]:
    """For each document the first with the same key (itself where there is none before).

    First in order of `rank`, and of place within a rank.
    """
    later = (keys[:, 0], keys[:, 1]) if rank is None else (rank, keys[:, 0], keys[:, 1])
    order = np.lexsort(later)  # stable, so that places stay in order
    ordered = keys[order]
    begins = np.ones(len(keys), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.cumsum(begins) - 1
    first = np.empty(len(keys), np.int64)
    first[order] = order[np.flatnonzero(begins)[group]]
    return first
