"""People of the village who use a released model, and what they say of its answers: simulated users with a complaint.

They ask about things that may be asked about. They all find one polite ending pushy, `COMPLAINT`, and say so: with
a thumb, an edit that leaves it out, or a vote for the other answer. Some of them err now and then.
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
"""What the visitors do not want to read."""
INSTEAD = "I hope this helps you."


@dataclass(frozen=True)
class WorldUsers:
    """The crowd of the embedded world."""

    world: World

    def visits(self, count: int, *, seed: int) -> Iterator[UserSession]:
        """Questions about things that may be asked about."""
        chance = Random(f"{seed}:visits")
        for number in range(count):
            question = say(chance.choice(ASKINGS), chance.choice(self.world.asked))
            who, answers = chance.choice(PEOPLE), chance.choice((1, 2, 2))
            yield UserSession(number, who, (Message("user", question),), answers)

    def minds(self, visit: UserSession, answer: str) -> bool:
        """Return True if the answer contains the ending that the users dislike."""
        return COMPLAINT in answer

    def react(self, visit: UserSession, answers: Sequence[str], *, seed: int) -> list[Reaction]:
        """A vote, a thumb, or an edit that ends otherwise."""
        bad = [self.minds(visit, answer) for answer in answers]
        return reactions(visit, answers, bad, seed=seed, mended=lambda text: text.replace(COMPLAINT, INSTEAD))
