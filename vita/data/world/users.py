"""Simulated users of a released model: their sessions, complaints and feedback.

`reactions` is the feedback of users who complain about some of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from vita.data.records import Message

ERROR_RATE = 0.05
"""Share of the users whose feedback is the opposite of their opinion."""


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

    def sessions(self, count: int, *, seed: int) -> Iterator[UserSession]:
        """Yield the sessions in order."""
        ...

    def complains_about(self, session: UserSession, answer: str) -> bool:
        """Return True if the users complain about this answer."""
        ...

    def react(self, session: UserSession, answers: Sequence[str], *, seed: int) -> list[Reaction]:
        """Return the feedback of a user on the answers."""
        ...


def reactions(
    session: UserSession,
    answers: Sequence[str],
    bad: Sequence[bool],
    *,
    seed: int,
    edit: Callable[[str], str] | None = None,
) -> list[Reaction]:
    """Return the feedback on one or two answers; none if two are equally good. `edit` returns the edited answer."""
    chance = Random(f"{seed}:reaction:{session.number}")
    errs = chance.random() < ERROR_RATE
    if len(answers) == 2:
        if bad[0] == bad[1]:
            return []
        worse = bad.index(not errs)
        return [Reaction("vote", 1 - worse, 1.0, rejected=worse)]
    if edit and bad[0] and chance.random() < 0.5 and not errs:
        return [Reaction("edit", 0, 1.0, better=edit(answers[0]))]
    return [Reaction("thumb", 0, -1.0 if bad[0] != errs else 1.0)]
