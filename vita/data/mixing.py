"""Which documents train, how often, and which are held out: drawn from the content, so that equal texts share a fate.

The draw depends on a document's content key and the seed alone; adding a source changes nothing for the others.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from vita.data.dedup import Keys


def draw(keys: Keys, *, seed: int, purpose: int) -> Float64[np.ndarray, "N"]:
    """A number from 0 up to 1 for each document; another seed or purpose draws others."""
    start = _mix(_mix(np.array([seed % 2**64], np.uint64)) + np.uint64(purpose))
    return (_mix(keys[:, 0] ^ start) >> np.uint64(11)) * 2.0**-53


def hold_out(draws: Float64[np.ndarray, "N"], amount: float) -> Bool[np.ndarray, "N"]:
    """The documents with the smallest draws: a share of them (at least one) below 1, a number of them from 1 on."""
    if amount <= 0 or not len(draws):
        return np.zeros(len(draws), bool)
    if amount < 1:
        return draws < amount if (draws < amount).any() else draws == draws.min()
    distinct = np.unique(draws)
    return draws <= distinct[min(int(amount), len(distinct)) - 1]


def passes(draws: Float64[np.ndarray, "N"], repeat: Float64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """How often each document is passed over: `repeat` rounded down, or up for a drawn share that keeps the mean."""
    whole = np.floor(repeat)
    return (whole + (draws < repeat - whole)).astype(np.int64)


def _mix(values: UInt64[np.ndarray, "N"]) -> UInt64[np.ndarray, "N"]:
    """A bijection of 64 bits, each depending on every other (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
