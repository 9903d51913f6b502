"""Nearest neighbours of a word by the embeddings of a model, and cosines of a word in different sentences.

nearest_tokens(model, tokenizer, "cat", top=5)              # [("dog", 0.81), ...], by the input embedding
word_cosines(text_model, "bank", ["by the river bank", "money in the bank"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.text_model import TextModel
from vita.nn.pooling import text_states
from vita.nn.transformer import Transformer
from vita.spine.errors import DataError

# V vocabulary, D width, N sentence


class Neighbour(NamedTuple):
    """A token that is similar to a word."""

    token: str
    cosine: float


def word_ids(tokenizer: Tokenizer, word: str) -> list[int]:
    """Return the tokens of a word inside a text; the fewest of its spellings with and without a space before it."""
    spellings = [tokenizer.encode(f" {word}"), tokenizer.encode(word)]
    ids = min((ids for ids in spellings if ids), key=len, default=[])
    if not ids:
        raise DataError("word", expected="a word with at least one token", got=repr(word))
    return ids


@torch.inference_mode()
def nearest_tokens(model: Transformer, tokenizer: Tokenizer, word: str, *, top: int = 10) -> list[Neighbour]:
    """Return the tokens whose input embeddings are most similar to that of a word.

    A word of several tokens has the mean of their embeddings. Special tokens, unused ids and the tokens of the word
    itself, in any case and with or without a space, are left out.
    """
    ids = word_ids(tokenizer, word)
    table = F.normalize(model.model.embed_tokens.weight.float(), dim=-1)[: tokenizer.vocabulary]
    cosines = table @ F.normalize(table[ids].mean(0), dim=-1)
    excluded = {*ids, *tokenizer.special_ids}
    neighbours: list[Neighbour] = []
    for token in cosines.argsort(descending=True).tolist():
        text = tokenizer.decode([token], special=True)
        if token in excluded or not text.strip() or text.strip().lower() == word.lower() or "\ufffd" in text:
            continue
        neighbours.append(Neighbour(text, round(cosines[token].item(), 4)))
        if len(neighbours) == top:
            break
    return neighbours


@torch.inference_mode()
def word_vectors(model: TextModel, word: str, sentences: Sequence[str]) -> Float[Tensor, "N D"]:
    """Return the output of the last layer for a word in each sentence: the mean over the tokens of the word."""
    engine, vectors = model.tokenizer.new_engine(), []
    for sentence in sentences:
        start = sentence.lower().find(word.lower())
        if start < 0:
            raise DataError("sentences", expected=f"sentences that contain `{word}`", got=sentence[:80])
        encoding = engine.encode(sentence, add_special_tokens=True)
        if len(encoding.ids) > model.context:
            raise DataError("sentences", expected=f"at most {model.context} tokens, the context", got=len(encoding.ids))
        end = start + len(word)
        rows = [
            index
            for index, ((first, last), special) in enumerate(
                zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
            )
            if not special and first < end and last > start
        ]
        ids = torch.tensor([encoding.ids], device=model.device)
        types = torch.tensor([encoding.type_ids], device=model.device)
        states = text_states(model.model, ids, torch.tensor([len(encoding.ids)], device=model.device), types=types)
        vectors.append(states[0, rows].float().mean(0).cpu())
    return torch.stack(vectors)


def word_cosines(model: TextModel, word: str, sentences: Sequence[str]) -> list[list[float]]:
    """Return the cosine similarity of a word in each pair of sentences."""
    unit = F.normalize(word_vectors(model, word, sentences), dim=-1)
    return [[round(value, 4) for value in row] for row in (unit @ unit.T).tolist()]
