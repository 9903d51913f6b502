"""Simulated users of the built-in world.

They ask about the things with training questions. All of them dislike one polite ending, `COMPLAINT`, and give a thumb,
an edit without it, or a vote for the other answer. Some feedback is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from vita.data.records import Message
from vita.data.world.dialogues import ASKINGS
from vita.data.world.pen import PEOPLE
from vita.data.world.relations import say
from vita.data.world.users import Reaction, UserSession, reactions
from vita.data.world.world import World

COMPLAINT = "Please ask me more."
"""The ending that the users dislike."""
INSTEAD = "I hope this helps you."


@dataclass(frozen=True)
class WorldUsers:
    """Users of the built-in world."""

    world: World

    def sessions(self, count: int, *, seed: int) -> Iterator[UserSession]:
        """Yield questions about the things with training questions."""
        rng = Random(f"{seed}:visits")
        for number in range(count):
            question = say(rng.choice(ASKINGS), rng.choice(self.world.asked))
            user, answers = rng.choice(PEOPLE), rng.choice((1, 2, 2))
            yield UserSession(number, user, (Message("user", question),), answers)

    def complains_about(self, session: UserSession, answer: str) -> bool:
        """Return True if the answer contains the ending that the users dislike."""
        return COMPLAINT in answer

    def react(self, session: UserSession, answers: Sequence[str], *, seed: int) -> list[Reaction]:
        """Return a vote, a thumb, or an edit with another ending."""
        bad = [self.complains_about(session, answer) for answer in answers]
        return reactions(session, answers, bad, seed=seed, edit=lambda text: text.replace(COMPLAINT, INSTEAD))
