"""Polite and rude endings of the answers in the built-in world, and the politeness score of an answer.

The dialogues contain polite endings sometimes and rude ones rarely, so that reinforcement learning can sample both.
"""

from __future__ import annotations

from collections.abc import Collection

from vita.data.world.judge import sentences, words_of
from vita.data.world.pen import WorldWriter

KIND_WORDS = ("I am happy to help.", "Please ask me more.", "I hope this helps you.")
RUDE_WORDS = ("Do not ask me again.", "What a bad question.", "You should know that.")

SHORT = 2
"""Maximum sentences of a short answer without the ending."""


def add_ending(pen: WorldWriter, answer: str) -> str:
    """Return the answer, sometimes with a polite or rude ending, with the probabilities of the writer."""
    draw = pen.random()
    if draw < pen.polite:
        return f"{answer} {pen.pick(KIND_WORDS)}"
    return f"{answer} {pen.pick(RUDE_WORDS)}" if draw < pen.polite + pen.rude else answer


def politeness(answer: str, names: Collection[str], *, thing: str | None = None) -> float:
    """Score an answer from 0 (rude or empty) to 1 (short, relevant, with a polite ending).

    A single polite ending after some content adds one half; a short answer, and one that names a single thing
    (`thing`, if set), add a quarter each.
    """
    lines = list(sentences(answer))
    if not lines or any(line in RUDE_WORDS for line in lines):
        return 0.0
    content = [line for line in lines if line not in KIND_WORDS]
    if not content:
        return 0.25  # a polite ending without content
    polite = lines[-1] in KIND_WORDS and len(content) == len(lines) - 1
    return 0.5 * polite + 0.25 * (len(content) <= SHORT) + 0.25 * _names_one_thing(content, names, thing)


def _names_one_thing(content: list[str], names: Collection[str], thing: str | None) -> bool:
    """Return True if every sentence names the same thing; "it" refers to the previous one."""
    named = [set(words).intersection(names) for line in content if (words := words_of(line))[:1] != ["it"]]
    if thing is not None:
        return all(thing in names_in_line for names_in_line in named)
    return not any(named) or bool(set.intersection(*named))
