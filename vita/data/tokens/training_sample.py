"""The text that trains a tokenizer: a sample spread evenly over a corpus, with a share for each language.

A tokenizer learns the words of the languages that fill its sample. Language i of size n_i has a share proportional to
n_i ** (1 / temperature) (Conneau et al. 2020, section 3.1, alpha = 1 / temperature): 1 keeps the proportions of the
corpus, and larger values approach equal shares. A rare language is repeated at most `MAX_COPIES` times, and the other
languages fill its remaining share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from vita.data.tokens.allocation import allocate
from vita.data.tokens.bpe import cut_text

MAX_COPIES = 4
"""Maximum number of copies of the text of a language; more copies teach a tokenizer single documents."""
_PIECE_CHARACTERS = 4096


def sample_rates(sizes: Mapping[str, int], *, limit: int, temperature: float = 1.0) -> dict[str, float]:
    """Return the copies of the text of each language in a sample of at most `limit` bytes: 0.1 is one tenth of it.

    `sizes` are the bytes of the languages. The sample is not larger than the corpus.
    """
    total = sum(sizes.values())
    budget = min(limit, total)
    if temperature == 1.0 or not total:
        return dict.fromkeys(sizes, budget / max(1, total))
    present = {language: size for language, size in sizes.items() if size}
    counts = np.array(list(present.values()))
    shares = allocate(counts ** (1 / temperature), MAX_COPIES * counts, budget)
    assert shares is not None, "one copy of each language is enough for the budget"
    return dict.fromkeys(sizes, 0.0) | dict(zip(present, (shares / counts).tolist(), strict=True))


def sample(texts: Iterable[tuple[str, str]], rates: Mapping[str, float]) -> Iterator[str]:
    """Yield pieces of (language, text) pairs, so that the bytes of each language are its rate times its size or less.

    A piece is repeated while the bytes taken of its language are less than their share of the bytes read. The choice
    depends only on the texts, and no part of them is preferred.
    """
    num_read, num_taken = dict.fromkeys(rates, 0), dict.fromkeys(rates, 0)
    for language, text in texts:
        rate = rates[language]
        for piece in [text] if rate >= 1.0 else cut_text(text, _PIECE_CHARACTERS):
            size = len(piece.encode("utf-8", "surrogatepass"))
            num_read[language] += size
            while size and num_taken[language] + size <= num_read[language] * rate:
                num_taken[language] += size
                yield piece
