"""Replay of pretraining text in later training, against forgetting: the number of rows and their shards.

replayed = replayed_rows(0.25, rows=8, where="sft")         # 2
general = pretraining(folder, tokenizer, where="sft")       # its shards, in the model's own tokens
"""

from __future__ import annotations

from pathlib import Path

from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.spine.errors import ConfigError


def replayed_rows(share: float, *, rows: int, where: str) -> int:
    """Return the number of pretraining rows per step; refuse a share that leaves no row of one kind."""
    replayed = round(share * rows)
    if share and not 0 < replayed < rows:
        hint = f"more `rows` (now {rows}) can hold such a share"
        raise ConfigError(f"{where}.replay", expected="at least one row of each kind", got=share, hint=hint)
    return replayed


def pretraining(tokens: Path | None, tokenizer: Tokenizer, *, where: str, needed: bool) -> Shards | None:
    """Open the pretraining text of a model; refuse tokens of another tokenizer."""
    if tokens is None:
        if needed:
            hint = "give them, or set `replay: 0` and risk that the model forgets"
            raise ConfigError(f"{where}.replay", "needs the pretraining's tokens as an input", hint=hint)
        return None
    shards = Shards.open(tokens / "train")
    if shards.tokenizer and shards.tokenizer != tokenizer.digest:
        hint = "take the tokens that the model was pretrained on"
        raise ConfigError(f"{where}.tokens", "were written with another tokenizer than the model's", hint=hint)
    return shards
