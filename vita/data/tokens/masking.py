"""Masking for masked-language models (Devlin et al. 2019): tokens to predict, and the input without them.

    masker = TokenMasker(tokenizer, MaskingRule(rate=0.3))
    rows = masker.mask(ids, seed=0, step=7, first_row=0)
    rows.ids                                    # the input: masked, replaced and unchanged tokens
    rows.targets[rows.learn]                    # the tokens to predict, at the positions rows.slots[rows.learn]

The mask of a row is a pure function of seed, step and row: it does not depend on the number of processes, and a resumed
run draws the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int64

from vita.data.tokens.tokenizer import Tokenizer

# R rows, T positions, K masked positions at most, V vocabulary

Replacement = Literal["bert", "mask"]


@dataclass(frozen=True)
class MaskingRule:
    """The share of tokens to predict, and their replacement in the input."""

    rate: float = 0.3
    """Share of the ordinary tokens that are predicted."""
    replacement: Replacement = "bert"
    """`mask` replaces all of them by the mask token. `bert` replaces 80 %, puts a random token for 10 %, and leaves
    10 % unchanged."""
    whole_words: bool = False
    """Predict all tokens of a word or none."""


@dataclass(frozen=True)
class MaskedRows:
    """Rows with masked tokens; `slots` has as many entries in each row, of which `learn` marks those in use."""

    ids: Int64[np.ndarray, "R T"]
    slots: Int64[np.ndarray, "R K"]
    targets: Int64[np.ndarray, "R K"]
    learn: Bool[np.ndarray, "R K"]

    @property
    def count(self) -> int:
        """Number of tokens to predict."""
        return int(self.learn.sum())


class TokenMasker:
    """Masks rows of tokens."""

    def __init__(self, tokenizer: Tokenizer, rule: MaskingRule) -> None:
        """`rule.rate` is the largest rate of the run, which determines the number of slots."""
        self.rule, self.mask_token = rule, tokenizer.mask
        special = np.zeros(tokenizer.vocabulary, dtype=bool)
        special[sorted(tokenizer.special_ids)] = True
        self._special = special
        self._ordinary = np.flatnonzero(~special)
        self._starts_word = word_starts(tokenizer) if rule.whole_words else np.ones(tokenizer.vocabulary, dtype=bool)

    def mask(
        self, ids: Int[np.ndarray, "R T"], *, seed: int, step: int, first_row: int = 0, rate: float | None = None
    ) -> MaskedRows:
        """Mask rows, of which the first has the number `first_row` in its step; `rate` is at most that of the rule."""
        share = self.rule.rate if rate is None else rate
        rows, length = ids.shape
        width = max(1, round(self.rule.rate * length))
        masked = ids.astype(np.int64)
        slots = np.zeros((rows, width), dtype=np.int64)
        learn = np.zeros((rows, width), dtype=bool)
        for index in range(rows):
            rng = np.random.default_rng([seed & 0x7FFFFFFF, step, first_row + index])
            chosen = self._choose(masked[index], share, rng)
            slots[index, : len(chosen)], learn[index, : len(chosen)] = chosen, True
            masked[index, chosen] = self._replaced(masked[index, chosen], rng)
        targets = np.take_along_axis(ids.astype(np.int64), slots, axis=1)
        return MaskedRows(masked, slots, targets, learn)

    def _choose(self, row: Int64[np.ndarray, "T"], share: float, rng: np.random.Generator) -> Int64[np.ndarray, "K"]:
        """Return the positions to predict, in order: at least one where the row has an ordinary token."""
        special = self._special[row]
        candidates = np.flatnonzero(~special)
        if not len(candidates):
            return candidates
        # Equal to the number of slots at most, because there are no more candidates than positions.
        count = max(1, round(share * len(candidates)))
        if not self.rule.whole_words:
            return np.sort(rng.permutation(candidates)[:count])
        starts = self._starts_word[row] | np.r_[True, special[:-1]]
        words = np.cumsum(starts)[candidates]
        sizes = np.bincount(words)
        order = rng.permutation(np.flatnonzero(sizes))
        whole = order[np.cumsum(sizes[order]) <= count]
        # Without a word that is short enough, the beginning of a longer one is predicted.
        chosen = candidates[np.isin(words, whole)] if len(whole) else candidates[words == order[0]][:count]
        return np.sort(chosen)

    def _replaced(self, tokens: Int64[np.ndarray, "K"], rng: np.random.Generator) -> Int64[np.ndarray, "K"]:
        if self.rule.replacement == "mask":
            return np.full_like(tokens, self.mask_token)
        draw, others = rng.random(len(tokens)), rng.choice(self._ordinary, len(tokens))
        return np.where(draw < 0.8, self.mask_token, np.where(draw < 0.9, others, tokens))


def word_starts(tokenizer: Tokenizer) -> Bool[np.ndarray, "V"]:
    """Return for each token whether it starts a word, at a space or a sign, instead of continuing one."""
    starts = np.ones(tokenizer.vocabulary, dtype=bool)
    prefix = tokenizer.continuing_prefix
    for token in range(tokenizer.vocabulary):
        spelling = tokenizer.token_bytes(token)
        if prefix:
            starts[token] = not spelling.startswith(prefix)
        elif spelling:
            first = spelling[:1]
            starts[token] = not (first.isalnum() or first[0] >= 0x80 or first == b"'")
    return starts
