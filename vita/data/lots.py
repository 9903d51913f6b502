"""Lots that single records draw: a number that follows from what a record says, and not from where it stands.

lot("a text", "0/held out") < 0.1       # held out, wherever it comes from
times(2.5, "a text")                    # 2 or 3 passes over it, 2.5 in the mean
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vita.data.records import Message


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
