"""Truncation of a sequence to the maximum length, with the reason if nothing can be learned from the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from vita.data.tokens.dialogue_encoding import EncodedDialogue

ROW_TOKENS = 2048
"""Tokens of a row by default, for models with a longer context; rows of 100,000 tokens would fill the memory."""

OnLong = Literal["truncate", "drop"]


def fit(encoded: EncodedDialogue, *, length: int, on_long: OnLong) -> EncodedDialogue | str:
    """Return the sequence cut to `length` tokens, or the reason for its drop."""
    if not any(encoded.learn[1:]):  # nothing comes before the first token
        return "no_target"
    if len(encoded.ids) <= length:
        return encoded
    if on_long == "drop":
        return "too_long"
    if not any(encoded.learn[1:length]):
        return "cut_before_answer"
    return replace(encoded, ids=encoded.ids[:length], learn=encoded.learn[:length])
