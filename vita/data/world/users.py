"""Users of a released model: what they ask, and what they say of its answers.

A crowd is anything with these three methods; `reactions` is what people do who mind some answers and not others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from vita.data.records import Message

ERRS = 0.05
"""How often a user says the opposite of what they think."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What is asked, by whom, and how many answers they want to choose from."""

    number: int
    who: str
    prompt: tuple[Message, ...]
    answers: int


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a user says of answer `index`."""

    kind: Literal["thumb", "edit", "vote"]
    index: int
    value: float
    better: str | None = None
    rejected: int | None = None


class Crowd(Protocol):
    """Simulated users."""

    def visits(self, count: int, *, seed: int) -> Iterator[Visit]:
        """What they ask, one after the other."""
        ...

    def minds(self, visit: Visit, answer: str) -> bool:
        """Whether they mind this answer."""
        ...

    def react(self, visit: Visit, answers: Sequence[str], *, seed: int) -> list[Reaction]:
        """What a visitor says of the answers."""
        ...


def reactions(
    visit: Visit,
    answers: Sequence[str],
    bad: Sequence[bool],
    *,
    seed: int,
    mended: Callable[[str], str] | None = None,
) -> list[Reaction]:
    """What is said of one answer, or of two: nothing of two that are equally good. `mended` is how an edit reads."""
    chance = Random(f"{seed}:reaction:{visit.number}")
    errs = chance.random() < ERRS
    if len(answers) == 2:
        if bad[0] == bad[1]:
            return []
        worse = bad.index(not errs)
        return [Reaction("vote", 1 - worse, 1.0, rejected=worse)]
    if mended and bad[0] and chance.random() < 0.5 and not errs:
        return [Reaction("edit", 0, 1.0, better=mended(answers[0]))]
    return [Reaction("thumb", 0, -1.0 if bad[0] != errs else 1.0)]
