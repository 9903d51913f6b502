"""The number of tokens of an answer that are reasoning."""

from __future__ import annotations

from vita.infer.answer_formats.answer_format import AnswerFormat


class ReasoningTokens:
    """Counts the tokens after the marker that begins the reasoning, up to and with the marker that ends it."""

    def __init__(self, format: AnswerFormat, *, prompt_end: str = "", text: str = "") -> None:
        """`prompt_end` is the end of the rendered prompt, and `text` the text of the answer that is not counted."""
        self.count = 0
        self._parser = format.parser(prompt_end=prompt_end)
        self._parse(text)

    def take(self, text: str) -> None:
        """Count a token by the text that it adds to the answer."""
        if self._parser.may_reason:
            self.count += self._parser.in_reasoning
            self._parse(text)

    def _parse(self, text: str) -> None:
        for _ in self._parser.push(text):
            pass
