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
class UserSession:
    """A question of a user, with the number of answers to choose from."""

    number: int
    who: str
    prompt: tuple[Message, ...]
    answers: int


@dataclass(frozen=True, slots=True)
class Reaction:
    """The feedback of a user on answer `index`."""

    kind: Literal["thumb", "edit", "vote"]
    index: int
    value: float
    better: str | None = None
    rejected: int | None = None


class UserSimulator(Protocol):
    """Simulated users."""

    def visits(self, count: int, *, seed: int) -> Iterator[UserSession]:
        """Yield the visits in order."""
        ...

    def minds(self, visit: UserSession, answer: str) -> bool:
        """Return True if the users complain about this answer."""
        ...

    def react(self, visit: UserSession, answers: Sequence[str], *, seed: int) -> list[Reaction]:
        """Return the feedback of a user on the answers."""
        ...


def reactions(
    visit: UserSession,
    answers: Sequence[str],
    bad: Sequence[bool],
    *,
    seed: int,
    mended: Callable[[str], str] | None = None,
) -> list[Reaction]:
    """Return the feedback on one or two answers; none if two are equally good. `mended` returns the edited answer."""
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
