"""Encoding of texts and pairs of texts for classifiers and embeddings, with the special tokens of the tokenizer.

    tokenizer = with_end_token(tokenizer)               # a decoder reads an end token, an encoder has its own template
    encoder = TextEncoder(tokenizer, length=512)
    encoder.encode([("A cat.",), ("A cat.", "A furry mammal.")])

The ids are those of transformers for the same folder: `tokenizer(text, text_pair, truncation=True)`. Names of special
tokens inside a text are plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vita.data.tokens.tokenizer import Tokenizer
from vita.spine.errors import ConfigError


@dataclass(frozen=True)
class EncodedText:
    """The ids of a text or a pair, with its special tokens."""

    ids: list[int]
    types: list[int]
    """0 for the tokens of the first text, 1 for those of the second (token types of BERT)."""
    truncated: bool = False


class TextEncoder:
    """Encodes texts and pairs, cut to a length."""

    def __init__(self, tokenizer: Tokenizer, *, length: int) -> None:
        """`length` is the maximum number of tokens; the longer text of a pair is cut first."""
        self.tokenizer, self.length = tokenizer, length
        self._engine = tokenizer.new_engine()
        self._engine.encode_special_tokens = True
        special = self._engine.num_special_tokens_to_add(True)
        if length <= special:
            raise ConfigError("max_length", expected=f"more than {special} tokens, the special tokens", got=length)
        self._engine.enable_truncation(length, strategy="longest_first")

    def encode(self, texts: Sequence[Sequence[str]]) -> list[EncodedText]:
        """Encode texts, each of one part or two; a text without any token becomes the token of a document."""
        inputs: list[Any] = [parts[0] if len(parts) == 1 else (parts[0], parts[1]) for parts in texts]
        encodings = self._engine.encode_batch(inputs, add_special_tokens=True)
        return [
            EncodedText(encoding.ids, encoding.type_ids, bool(encoding.overflowing))
            if encoding.ids
            else EncodedText([self.tokenizer.document], [0])
            for encoding in encodings
        ]


def with_end_token(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that marks the end of a text, and the border between the texts of a pair.

    The tokenizer of an encoder marks both and is returned as it is. Another one gets a template with its end token. An
    end token that is also the padding token would be ignored by classifiers of transformers: then the end stays
    unmarked, and the border is marked by the token between documents.
    """
    engine = tokenizer.new_engine()
    single = engine.encode("a", add_special_tokens=True)
    pair = engine.encode("a", "a", add_special_tokens=True)
    plain = len(engine.encode("a", add_special_tokens=False).ids)
    prefix = single.ids[: _leading(single.special_tokens_mask)]
    ends_marked = bool(single.special_tokens_mask[-1])
    border_marked = bool(pair.special_tokens_mask[len(prefix) + plain])
    if ends_marked and border_marked:
        return tokenizer
    pad = tokenizer.pad
    end = next((token for token in (tokenizer.end_of_turn, tokenizer.document) if token != pad), None)
    border = tokenizer.document if end is None else end
    return tokenizer.with_template(prefix=prefix, border=border, end=end)


def _leading(special: Sequence[int]) -> int:
    """Return the number of special tokens at the start."""
    return next((index for index, value in enumerate(special) if not value), len(special))
