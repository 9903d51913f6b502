"""Stop tokens of a tuned model: those of the base model, and the end-of-turn tokens of its training."""

from __future__ import annotations

from pathlib import Path

from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import turn_ends
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn import hf


def save_stops(tokenizer: Tokenizer, template: ChatTemplate, folder: Path) -> None:
    """Add every token that ends an answer to the stop tokens in `folder`; other generation settings stay unchanged.

    A template may end turns with a token that is not in the settings, for example `<|end|>` besides `<|endoftext|>`.
    The tuned model learns to generate it, and would continue after it if it were not a stop token.
    """
    end_tokens = sorted({tokenizer.end_of_turn, *turn_ends(tokenizer, template)})
    hf.add_stops(folder, end_tokens, otherwise=tokenizer.stops)
