"""People of the village who use a released model, and what they say of its answers: simulated users with a complaint.

They ask about things that may be asked about. They all find one polite ending pushy, `COMPLAINT`, and say so: with
a thumb, an edit that leaves it out, or a vote for the other answer. Some of them err now and then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from vita.data.world.dialogues import ASKINGS
from vita.data.world.pen import PEOPLE
from vita.data.world.relations import say
from vita.data.world.world import World

COMPLAINT = "Please ask me more."
"""What the visitors do not want to read."""
INSTEAD = "I hope this helps you."
ERRS = 0.05
"""How often a visitor says the opposite of what they think."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A question, by whom, and how many answers they want to choose from."""

    number: int
    who: str
    question: str
    answers: int


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a visitor says of answer `index`."""

    kind: Literal["thumb", "edit", "vote"]
    index: int
    value: float
    better: str | None = None
    rejected: int | None = None


def visits(world: World, *, count: int, seed: int) -> Iterator[Visit]:
    """What the visitors ask, one after the other."""
    chance = Random(f"{seed}:visits")
    for number in range(count):
        question = say(chance.choice(ASKINGS), chance.choice(world.asked))
        yield Visit(number, chance.choice(PEOPLE), question, chance.choice((1, 2, 2)))


def complains(answer: str) -> bool:
    """Whether visitors mind this answer."""
    return COMPLAINT in answer


def react(visit: Visit, answers: Sequence[str], *, seed: int) -> list[Reaction]:
    """What the visitor says of the answers: nothing of two that are equally good."""
    chance = Random(f"{seed}:reaction:{visit.number}")
    bad = [complains(answer) for answer in answers]
    errs = chance.random() < ERRS
    if len(answers) == 2:
        if bad[0] == bad[1]:
            return []
        worse = bad.index(not errs)
        return [Reaction("vote", 1 - worse, 1.0, rejected=worse)]
    if bad[0] and chance.random() < 0.5 and not errs:
        return [Reaction("edit", 0, 1.0, better=answers[0].replace(COMPLAINT, INSTEAD))]
    return [Reaction("thumb", 0, -1.0 if bad[0] != errs else 1.0)]
