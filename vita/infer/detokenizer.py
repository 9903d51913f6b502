"""Incremental detokenization: complete characters only, and no text of a stop sequence.

Law: the concatenated results of `push` and `finish` are the decoded bytes up to the stop sequence that ends first, for
any division of the bytes into tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """A decoder that takes the bytes of each token and returns the text that cannot change any more."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = [text for text in stop if text]
        self._longest = max(map(len, self._stop), default=0)
        self._withheld = ""
        self.stop: str | None = None
        """The stop sequence that ended the text."""

    @property
    def stopped(self) -> bool:
        """True after a stop sequence."""
        return self.stop is not None

    def push(self, data: bytes) -> str:
        """Return the text that this token adds; text that may begin a stop sequence is withheld."""
        return self._release(self._decoder.decode(data), last=False)

    def finish(self) -> str:
        """Return the withheld text at the end; an incomplete character becomes U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True), last=True)

    def _release(self, text: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        text_so_far = self._withheld + text
        stops = [(at + len(stop), at, stop) for stop in self._stop if (at := text_so_far.find(stop)) >= 0]
        if stops:
            _, at, self.stop = min(stops)
            self._withheld = ""
            return text_so_far[:at]
        keep = 0 if last else self._possible_beginning(text_so_far)
        self._withheld = text_so_far[len(text_so_far) - keep :]
        return text_so_far[: len(text_so_far) - keep]

    def _possible_beginning(self, text: str) -> int:
        """Return the length of the longest suffix of `text` that is a prefix of a stop sequence."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
