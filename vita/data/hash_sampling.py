"""Sampling by content hash: equal texts are in the same split and are repeated equally often.

A hash fraction depends on the content and the seed alone, so that adding a source does not change the others. Documents
are sampled by their keys, in arrays (`hash_fractions`, `held_out_mask`, `repeat_counts`); single records by their text
(`hash_fraction`, `repeat_count`). The two use different hash functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from vita.data.content import Keys
from vita.data.records import Message


def hash_fractions(keys: Keys, *, seed: int, purpose: int) -> Float64[np.ndarray, "N"]:
    """Return a number in [0, 1) for each document, which depends on its key, the seed and the purpose."""
    start = _mix(_mix(np.array([seed % 2**64], np.uint64)) + np.uint64(purpose))
    return (_mix(keys[:, 0] ^ start) >> np.uint64(11)) * 2.0**-53


def held_out_mask(fractions: Float64[np.ndarray, "N"], amount: float) -> Bool[np.ndarray, "N"]:
    """Return a mask of the held-out documents, those with the smallest hash fractions.

    An amount below 1 is a share of the documents (at least one), otherwise a number of documents.
    """
    if amount <= 0 or not len(fractions):
        return np.zeros(len(fractions), bool)
    if amount < 1:
        return fractions < amount if (fractions < amount).any() else fractions == fractions.min()
    distinct = np.unique(fractions)
    return fractions <= distinct[min(int(amount), len(distinct)) - 1]


def repeat_counts(fractions: Float64[np.ndarray, "N"], repeat: Float64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """Return the repeat count of each document: `repeat` rounded down or up by hash, so that the mean is `repeat`."""
    floor = np.floor(repeat)
    return (floor + (fractions < repeat - floor)).astype(np.int64)


def _mix(values: UInt64[np.ndarray, "N"]) -> UInt64[np.ndarray, "N"]:
    """Mix 64-bit values bijectively (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_fraction(text: str, purpose: str) -> float:
    """Return a number in [0, 1) by the hash of `purpose` (which may contain a seed) and `text`."""
    digest = hashlib.sha256(f"{purpose}/{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def messages_text(messages: Sequence[Message]) -> str:
    """Return roles and texts of messages as one text, for `hash_fraction`."""
    return "\0".join(f"{message.role}:{message.text}" for message in messages)


def repeat_count(repeat: float, text: str) -> int:
    """Return the repeat count of `text`: `repeat` rounded down or up by hash, so that the mean is `repeat`."""
    return int(repeat) + (hash_fraction(text, "repeat") < repeat % 1)
