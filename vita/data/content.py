"""The content of a text: one form of its line ends and characters, and a key that is equal for equal content.

Only a 128-bit key of each document is kept, so a hundred million documents take 1.6 GB and no text.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import xxhash
from jaxtyping import UInt64

Keys = UInt64[np.ndarray, "N 2"]

_OGHAM_SPACE = "\u1680".encode()
_BLANKS = bytes.maketrans(b"\t\n\v\f\r", b"     ")
_CONTROL = bytes([*range(9), *range(14, 32), 127])
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_SEPARATORS = re.compile(rb"\xe2\x80[\xa8\xa9]")
"""U+2028 and U+2029 in UTF-8."""


def mend(text: str) -> tuple[str, bytes]:
    """Return (text, its UTF-8) with one kind of line end and without control characters.

    Half surrogate pairs, which Python and JSON allow and UTF-8 does not, become U+FFFD.
    """
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        text = _HALF_PAIR.sub("\ufffd", text)
        raw = text.encode("utf-8")
        data = plain_line_ends(raw).translate(None, _CONTROL).removeprefix(b"\xef\xbb\xbf")
        return data.decode("utf-8"), data
    data = plain_line_ends(raw).translate(None, _CONTROL).removeprefix(b"\xef\xbb\xbf")
    return (text, raw) if len(data) == len(raw) and data == raw else (data.decode("utf-8"), data)


def plain_line_ends(data: bytes) -> bytes:
    """Return `data` with every line end of Unicode (UAX 14: CR LF, CR, VT, FF, NEL, LS, PS) as one LF."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for end in (b"\v", b"\f"):
        if end in data:
            data = data.replace(end, b"\n")
    if not data.isascii():  # the search for one byte takes a tenth of that for several
        data = data.replace(b"\xc2\x85", b"\n") if b"\xc2" in data else data
        data = _SEPARATORS.sub(b"\n", data) if b"\xe2" in data else data
    return data


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
