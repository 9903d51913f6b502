"""Sampling by hashes of the content: equal texts are held out together, and are passed over equally often.

A draw depends on the content and the seed alone; adding a source changes nothing for the others. Documents are drawn
by their keys, in arrays (`draw`, `hold_out`, `passes`); single records by their text (`lot`, `times`). The two use
different hash functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from vita.data.content import Keys
from vita.data.records import Message


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


def lot(text: str, purpose: str) -> float:
    """A number from 0 up to 1; another purpose (in which a seed may stand) draws another."""
    digest = hashlib.sha256(f"{purpose}/{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def text_of(messages: Sequence[Message]) -> str:
    """What is said in them, and by whom, as one text that can draw a lot."""
    return "\0".join(f"{one.role}:{one.content}" for one in messages)


def times(repeat: float, text: str) -> int:
    """How often `text` is passed over: `repeat` rounded down, or up for the share of texts that keeps the mean."""
    return int(repeat) + (lot(text, "repeat") < repeat % 1)
