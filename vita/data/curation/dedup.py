"""Exact deduplication: documents that are equal after normalization of case, white space and characters (NFKC)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Int64

from vita.data.content import Keys


def first_equal(keys: Keys, *, rank: Int[np.ndarray, "N"] | None = None) -> Int64[np.ndarray, "N"]:
    """Return the index of the first document with the same key, for each document (its own index if it is the first).

    Documents are ordered by `rank`, and by index within a rank.
    """
    sort_keys = (keys[:, 0], keys[:, 1]) if rank is None else (rank, keys[:, 0], keys[:, 1])
    order = np.lexsort(sort_keys)  # stable, so that indices stay in order
    ordered = keys[order]
    is_group_start = np.ones(len(keys), bool)
    is_group_start[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.cumsum(is_group_start) - 1
    first = np.empty(len(keys), np.int64)
    first[order] = order[np.flatnonzero(is_group_start)[group]]
    return first
