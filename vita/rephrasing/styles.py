"""The styles of rewrites and their prompts.

    style = STYLES["faq"]
    style.prompt("The cat sleeps.")             # the request to a chat model
    style.base_prompt("The cat sleeps.")        # the text that a base model continues

A change of a prompt needs a new `PROMPT_VERSION`, which every rewrite names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

PROMPT_VERSION = "1"

_RULES = (
    "Use only facts from the text, and keep names, numbers and dates. Write in the language of the text. "
    "Return only the result, without an introduction or a comment."
)
_QUESTION_MARKS = ("?", "？", "؟")


@dataclass(frozen=True)
class Style:
    """A form of rewrites."""

    name: str
    task: str
    """The instruction to the model."""
    heading: str
    """The heading after which a base model continues."""
    has_form: Callable[[str], bool] = lambda text: True
    """Returns False for a text that does not have the form."""
    form: str = ""
    """The form, for messages."""

    @property
    def instructions(self) -> str:
        """Return the text of the prompts without the passage."""
        return f"{self.task} {_RULES}"

    def prompt(self, passage: str) -> str:
        """Return the request to a chat model."""
        return f"{self.instructions}\n\nText:\n\n{passage}"

    def base_prompt(self, passage: str) -> str:
        """Return the text that a model without a chat template continues."""
        return f"Text:\n\n{passage}\n\nTask: {self.instructions}\n\n{self.heading}:\n\n"


def _is_table(text: str) -> bool:
    """Return True if two consecutive lines have the same number of cells, two or more."""
    cells = [len(re.findall(r"(?<!\\)\|", line.strip().strip("|"))) for line in text.splitlines()]
    return any(first == second > 0 for first, second in pairwise(cells))


def _is_faq(text: str) -> bool:
    """Return True if a question is followed by further text."""
    ends = [text.find(mark) for mark in _QUESTION_MARKS if mark in text]
    return bool(ends) and bool(text[min(ends) + 1 :].strip())


STYLES: dict[str, Style] = {
    style.name: style
    for style in (
        Style(
            "table",
            "Present the information of the text below as tables in Markdown. Name the columns, put each fact into a "
            "row, and write one sentence before each table that states its subject.",
            "Table",
            _is_table,
            "a table",
        ),
        Style(
            "faq",
            "Present the information of the text below as questions and answers, in the order of the text. Begin each "
            "question with `Q:` and each answer with `A:`. Each answer must be clear without the other answers.",
            "Questions and answers",
            _is_faq,
            "a question with an answer",
        ),
        Style(
            "tutorial",
            "Present the information of the text below as a tutorial for a reader who is new to the subject. State "
            "first what the reader will learn, explain it in numbered steps, and end with a short review.",
            "Tutorial",
        ),
        Style(
            "summary",
            "Summarize the text below in your own words in about a quarter of its length. Leave out repetition.",
            "Summary",
        ),
    )
}
"""Name -> style."""
