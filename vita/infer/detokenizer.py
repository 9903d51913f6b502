"""Bytes of tokens become text as they come: whole characters only, and nothing of a stop text.

Law: what `push` and `finish` gave, put together, is the decoded bytes up to the stop text that ends first, however
the bytes were cut into tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Takes the bytes of one token after another and gives the text that is certain."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = [text for text in stop if text]
        self._longest = max(map(len, self._stop), default=0)
        self._held = ""
        self.stopped = False
        """True once a stop text was met."""

    def push(self, data: bytes) -> str:
        """The text that this token adds for certain; what may be the beginning of a stop text is held back."""
        return self._release(self._decoder.decode(data), last=False)

    def finish(self) -> str:
        """What was held back, when no more comes; a character cut in two becomes U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True), last=True)

    def _release(self, text: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._stop if (at := held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)[1]]
        keep = 0 if last else self._possible_beginning(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which some stop text begins."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
