"""Text normalization and content keys, which are equal for texts with equal content.

Only a 128-bit key of each document is held in memory: a hundred million documents take 1.6 GB.
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
_LOWER_BLANKS = _BLANKS.lower()
"""White space to spaces, and A to Z to lower case."""
_CONTROL = bytes([*range(9), *range(14, 32), 127])
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SEPARATORS = re.compile(rb"\xe2\x80[\xa8\xa9]")
"""U+2028 and U+2029 in UTF-8."""


def normalize_text(text: str) -> tuple[str, bytes]:
    """Return (text, its UTF-8) with LF as line ends and without control characters.

    Lone surrogates, which Python and JSON allow and UTF-8 does not, become U+FFFD.
    """
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        text = replace_lone_surrogates(text)
        raw = text.encode("utf-8")
        data = normalize_line_ends(raw).translate(None, _CONTROL).removeprefix(b"\xef\xbb\xbf")
        return data.decode("utf-8"), data
    data = normalize_line_ends(raw).translate(None, _CONTROL).removeprefix(b"\xef\xbb\xbf")
    return (text, raw) if len(data) == len(raw) and data == raw else (data.decode("utf-8"), data)


def replace_lone_surrogates(text: str) -> str:
    """Return a text with U+FFFD for each lone surrogate, which Python and JSON allow and UTF-8 does not."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def normalize_line_ends(data: bytes) -> bytes:
    """Replace every Unicode line end (UAX 14: CR LF, CR, VT, FF, NEL, LS, PS) by one LF."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for end in (b"\v", b"\f"):
        if end in data:
            data = data.replace(end, b"\n")
    if not data.isascii():  # searching for one byte takes a tenth of the time of searching for several
        data = data.replace(b"\xc2\x85", b"\n") if b"\xc2" in data else data
        data = _SEPARATORS.sub(b"\n", data) if b"\xe2" in data else data
    return data


def content_key(text: str, data: bytes) -> bytes:
    """Return 16 bytes that are equal for equal content; `text` is normalized, and `data` is its UTF-8."""
    return key_of_comparable(comparable_bytes(text, data))


def key_of_comparable(comparable: bytes) -> bytes:
    """Return the content key of a text in the form of `comparable_bytes`."""
    return xxhash.xxh3_128_digest(comparable)


def comparable_bytes(text: str, data: bytes) -> bytes:
    """Return the form in which normalized texts are compared: NFKC, case folded, white space collapsed to one space."""
    if data.isascii():
        plain = data.translate(_LOWER_BLANKS).strip()
    else:
        plain = unicodedata.normalize("NFKC", text).casefold().encode("utf-8", errors="replace")
        # NFKC replaces all white space of other scripts except this character; `normalize_text` removed the line ends.
        plain = plain.replace(_OGHAM_SPACE, b" ") if b"\xe1" in plain else plain
        plain = plain.translate(_BLANKS).strip()
    while b"  " in plain:
        plain = plain.replace(b"  ", b" ")
    return plain


def as_keys(digests: list[bytes]) -> Keys:
    """Return digests of `content_key` as an array."""
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
