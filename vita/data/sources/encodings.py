"""Encodings of text: named in the settings, marked by a byte-order mark, or detected from the content.

    detect_encoding(b"\\xff\\xfea\\0", where="a.txt")      # "utf-16"
    for piece in to_utf8(pieces, "cp1251", path="a.txt"): ...

Text is UTF-8 unless its beginning shows another encoding. A legacy encoding is only detected (by uchardet, extra `web`)
if enough bytes are not ASCII and they are mostly not UTF-8; a few damaged bytes in UTF-8 are not an encoding.
"""

from __future__ import annotations

import codecs
import importlib.util
from collections.abc import Iterable, Iterator

from vita.data.sources.files import DamagedFile

UTF8 = "utf-8"
MIN_EVIDENCE = 16
"""Smallest number of bytes beyond ASCII from which an encoding is detected."""
_SAMPLE_BYTES = 2**16
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def detect_encoding(head: bytes) -> str:
    """Return the codec of a text that begins with `head`; UTF-8 if no other encoding is certain."""
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return codec
    if b"\0" in head[:_SAMPLE_BYTES] and (order := utf16_byte_order(head)):
        return f"utf-16-{order}"
    if head.isascii() or _utf8_share(head) > 0.5:
        return UTF8
    sample = head[:_SAMPLE_BYTES]
    if len(sample.translate(None, _ASCII)) < MIN_EVIDENCE:
        return UTF8
    return _detect_legacy(sample) or UTF8


def is_wide_text(head: bytes) -> bool:
    """Return True if the content begins like UTF-16 or UTF-32."""
    return head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or utf16_byte_order(head) is not None


def utf16_byte_order(head: bytes) -> str | None:
    """Return `le` or `be` if every other byte is mostly zero, as in UTF-16 of Latin text without a byte-order mark."""
    even, odd = head[:4096:2], head[1:4096:2]
    for order, zeros, letters in (("le", odd, even), ("be", even, odd)):
        if zeros.count(0) > 0.7 * len(zeros) and letters.count(0) < 0.05 * max(1, len(letters)):
            return order
    return None


def wide_text(head: bytes) -> bytes:
    """Return the beginning of a text in UTF-16 or UTF-32 in UTF-8, without a byte-order mark.

    Characters that cannot be decoded are left out.
    """
    decoder = codecs.getincrementaldecoder(detect_encoding(head))("ignore")
    return decoder.decode(head).removeprefix("\ufeff").encode("utf-8", "ignore")


_ASCII = bytes(range(128))


def _utf8_share(head: bytes) -> float:
    """Return the share of the bytes beyond ASCII that are valid UTF-8."""
    total = len(head.translate(None, _ASCII))
    valid = len(head.decode("utf-8", "ignore").encode().translate(None, _ASCII))
    return valid / total


def _detect_legacy(sample: bytes) -> str | None:
    if importlib.util.find_spec("resiliparse") is None:
        return None
    from resiliparse.parse.encoding import detect_encoding as detect

    codec = detect(sample)
    if codec is None or codecs.lookup(codec).name == UTF8:
        return None
    try:
        codecs.getincrementaldecoder(codec)("strict").decode(sample)
    except UnicodeDecodeError:
        return None
    return codec


def to_utf8(pieces: Iterable[bytes], codec: str, *, path: str) -> Iterator[bytes]:
    """Yield the text of `pieces` in UTF-8, without a byte-order mark."""
    decoder = codecs.getincrementaldecoder(codec)("strict")
    length = 0
    try:
        for piece in pieces:
            text = decoder.decode(piece)
            yield (text if length else text.removeprefix("\ufeff")).encode("utf-8", "surrogatepass")
            length += len(piece)
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        problem = f"is not {codec} after about {length:,} bytes of text ({error.reason})"
        raise DamagedFile(path, problem, hint="set `encoding` of the source, or correct the file") from None
