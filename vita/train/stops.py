"""The tokens at which a tuned model stops: those of the model before, and the ends of turn that it was trained on."""

from __future__ import annotations

from pathlib import Path

from vita.data.tokens.chat_template import ChatTemplate, turn_ends
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn import hf


def save_stops(tokenizer: Tokenizer, template: ChatTemplate, folder: Path) -> None:
    """Add every token that ends an answer to the stops in `folder`; all other generation settings stay as they are.

    A template may end turns with a token that the settings do not name, `<|end|>` beside `<|endoftext|>` for instance.
    The tuned model learns to write it, and would go on after it if it were no stop.
    """
    ends = sorted({tokenizer.end_of_turn, *turn_ends(tokenizer, template)})
    hf.add_stops(folder, ends, otherwise=tokenizer.stops)
