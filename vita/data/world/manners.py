"""How the world's assistant ends its answers: politely, rudely or plainly; and how well-mannered an answer is.

What a model is tuned on shows good endings sometimes and bad ones rarely: only what is shown can be reinforced later.
"""

from __future__ import annotations

from collections.abc import Collection

from vita.data.world.judge import sentences, words_of
from vita.data.world.pen import WorldWriter

KIND_WORDS = ("I am happy to help.", "Please ask me more.", "I hope this helps you.")
RUDE_WORDS = ("Do not ask me again.", "What a bad question.", "You should know that.")

SHORT = 2
"""Sentences beside the ending that a short answer has at most."""


def with_manners(pen: WorldWriter, answer: str) -> str:
    """The answer, sometimes with an ending: polite or rude as often as the pen is."""
    draw = pen.random()
    if draw < pen.polite:
        return f"{answer} {pen.pick(KIND_WORDS)}"
    return f"{answer} {pen.pick(RUDE_WORDS)}" if draw < pen.polite + pen.rude else answer


def manners(answer: str, names: Collection[str], *, thing: str | None = None) -> float:
    """From 0 for a rude or empty answer to 1 for a short one that keeps to its matter and ends politely.

    A polite ending is worth one half, and only once and after something was said; being short and speaking of one
    thing alone (of `thing`, where it is given) a quarter each.
    """
    lines = list(sentences(answer))
    if not lines or any(line in RUDE_WORDS for line in lines):
        return 0.0
    content = [line for line in lines if line not in KIND_WORDS]
    if not content:
        return 0.25  # polite about nothing
    polite = lines[-1] in KIND_WORDS and len(content) == len(lines) - 1
    return 0.5 * polite + 0.25 * (len(content) <= SHORT) + 0.25 * _keeps_to_one(content, names, thing)


def _keeps_to_one(content: list[str], names: Collection[str], thing: str | None) -> bool:
    """Return True if every sentence names the same thing; "it" refers to the previous one."""
    named = [set(words).intersection(names) for line in content if (words := words_of(line))[:1] != ["it"]]
    if thing is not None:
        return all(thing in names_in_line for names_in_line in named)
    return not any(named) or bool(set.intersection(*named))
