"""Cut a sequence to the length that a model reads, or say why nothing could be learned from it then."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from vita.data.tokens.chat_template import EncodedDialogue

OnLong = Literal["truncate", "drop"]


def fit(encoded: EncodedDialogue, *, length: int, on_long: OnLong) -> EncodedDialogue | str:
    """The sequence cut to `length` tokens, or the reason for which it is dropped."""
    if not any(encoded.learn[1:]):  # nothing comes before the first token
        return "no_target"
    if len(encoded.ids) <= length:
        return encoded
    if on_long == "drop":
        return "too_long"
    if not any(encoded.learn[1:length]):
        return "cut_before_answer"
    return replace(encoded, ids=encoded.ids[:length], learn=encoded.learn[:length])
