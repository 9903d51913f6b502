"""Exact duplicates: documents equal but for case, white space and the forms of the same character (NFKC).

Only a 128-bit key of each document is kept, so a hundred million documents take 1.6 GB and no text.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import xxhash
from jaxtyping import Int, Int64, UInt64

Keys = UInt64[np.ndarray, "N 2"]

_OGHAM_SPACE = "\u1680".encode()
_BLANKS = bytes.maketrans(b"\t\n\v\f\r", b"     ")


def content_key(text: str, data: bytes) -> bytes:
    """Return 16 bytes that are equal for equal content; `text` comes from `page.mend`, and `data` is its UTF-8."""
    return xxhash.xxh3_128_digest(normalised(text, data))


def normalised(text: str, data: bytes) -> bytes:
    """Return what is compared of a mended text: NFKC, case folded, every run of white space one space."""
    if data.isascii():
        plain = data.lower()
    else:
        plain = unicodedata.normalize("NFKC", text).casefold().encode("utf-8", errors="replace")
        # NFKC makes a space of every white space of other scripts but this one; `mend` removed the line ends.
        plain = plain.replace(_OGHAM_SPACE, b" ") if b"\xe1" in plain else plain
    plain = plain.translate(_BLANKS).strip()
    while b"  " in plain:
        plain = plain.replace(b"  ", b" ")
    return plain


def as_keys(digests: list[bytes]) -> Keys:
    """The digests of `content_key` as an array."""
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def first_equal(keys: Keys, *, rank: Int[np.ndarray, "N"] | None = None) -> Int64[np.ndarray, "N"]:
    """For each document the first with the same key (itself where there is none before).

    First in order of `rank`, and of place within a rank.
    """
    later = (keys[:, 0], keys[:, 1]) if rank is None else (rank, keys[:, 0], keys[:, 1])
    order = np.lexsort(later)  # stable, so that places stay in order
    ordered = keys[order]
    begins = np.ones(len(keys), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.cumsum(begins) - 1
    first = np.empty(len(keys), np.int64)
    first[order] = order[np.flatnonzero(begins)[group]]
    return first
