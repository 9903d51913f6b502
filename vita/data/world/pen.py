"""The hand that writes the world's text: it picks things, wordings and people by chance, and knows who may be asked.

Things come from shuffled decks, so that all are written about equally often. A question that gets an answer is only
ever drawn from the asked things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from vita.data.world.relations import DEFINITIONS, QUESTIONS, RELATIONS, say
from vita.data.world.things import Thing

X = TypeVar("X")

PEOPLE = ("Anna", "Tom", "Mary", "Peter", "Clara", "Hans", "Lucy", "Paul", "Emma", "Karl", "Rosa", "Jack")


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact in all its wordings, and the questions that it answers."""

    relation: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ThingWordings:
    """A thing with everything there is to say about it, worded beforehand."""

    thing: Thing
    asked: bool
    a: str
    definitions: tuple[str, ...]
    questions: tuple[str, ...]
    facts: tuple[Fact, ...]

    @classmethod
    def of(cls, thing: Thing, *, asked: bool) -> ThingWordings:
        """Word all that is known about `thing`."""
        return cls(
            thing,
            asked,
            thing.a,
            tuple(say(wording, thing) for wording in DEFINITIONS),
            tuple(say(wording, thing) for wording in QUESTIONS),
            tuple(_fact(thing, relation, value) for relation, value in thing.facts.items()),
        )


class ShuffledCycle(Generic[X]):
    """Cards dealt in shuffled rounds: each comes once before any comes again."""

    def __init__(self, cards: Sequence[X], chance: Random) -> None:
        self._cards, self._chance, self._next = list(cards), chance, len(cards)

    def deal(self) -> X:
        """The next card."""
        if self._next == len(self._cards):
            last = self._cards[-1]
            self._chance.shuffle(self._cards)
            if self._cards[0] is last:  # so that two in a row are two
                self._cards.reverse()
            self._next = 0
        self._next += 1
        return self._cards[self._next - 1]


class WorldWriter:
    """Writes about the things of one world with one stream of chance."""

    def __init__(
        self, entries: Sequence[ThingWordings], chance: Random, *, polite: float = 0.0, rude: float = 0.0
    ) -> None:
        """An assistant's answers end politely or rudely as often as these say."""
        self.entries, self.chance = entries, chance
        self.polite, self.rude = polite, rude
        self.random = chance.random
        # Questions with answers speak of the asked things alone; the rest tells more of the others, to be fair.
        fair = [entry for entry in entries for _ in range(2 if entry.asked else 3)]
        self.any, self.asked = (
            ShuffledCycle(fair, chance),
            ShuffledCycle([entry for entry in entries if entry.asked], chance),
        )
        self._people = ShuffledCycle(PEOPLE, chance)
        self.subjects: list[ThingWordings] = []
        """The things that the present piece is about, in order."""

    def start(self) -> None:
        """Begin a new piece."""
        self.subjects = []

    def thing(self) -> ThingWordings:
        """The next thing to write about."""
        return self._next(self.any)

    def asked_thing(self) -> ThingWordings:
        """The next thing that may be asked about and answered."""
        return self._next(self.asked)

    def about(self, entry: ThingWordings) -> ThingWordings:
        """Note that the piece is about `entry`."""
        self.subjects.append(entry)
        return entry

    def like(self, entry: ThingWordings, count: int) -> list[ThingWordings]:
        """Up to `count` other things of the same kind."""
        same = [other for other in self.entries if other.thing.kind is entry.thing.kind and other is not entry]
        return [self.about(other) for other in self.some(same, count)]

    def person(self) -> str:
        """A person; two in a row are two people."""
        return self._people.deal()

    def pick(self, choices: Sequence[X]) -> X:
        """One of `choices`."""
        return choices[int(self.random() * len(choices))]

    def some(self, choices: Sequence[X], count: int) -> list[X]:
        """`count` of the choices, in any order."""
        mixed = list(choices)
        self.chance.shuffle(mixed)
        return mixed[:count]

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both possible."""
        return low + int(self.random() * (high - low + 1))

    def definition(self, entry: ThingWordings) -> str:
        """The definition, every third time in the plain wording."""
        return entry.definitions[0] if self.random() < 0.33 else self.pick(entry.definitions)

    def facts(self, entry: ThingWordings, count: int) -> list[str]:
        """`count` different facts, in varied order and wording."""
        return [self.pick(fact.statements) for fact in self.some(entry.facts, count)]

    def telling(self, entry: ThingWordings, *, facts: int) -> list[str]:
        """Facts with the definition somewhere among them."""
        sentences = self.facts(entry, facts)
        sentences.insert(self.number(0, facts), self.definition(entry))
        return sentences

    def question_about(self, entry: ThingWordings) -> str:
        """Return a question for the definition of a thing, or for one of its facts."""
        return self.pick(entry.questions) if self.random() < 0.5 else self.pick(self.pick(entry.facts).questions)

    def exchange(self, entry: ThingWordings) -> tuple[str, str]:
        """A question about an asked thing with its answer: mostly what it is, else one of its facts."""
        assert entry.asked, f"{entry.a} is never asked and answered"
        if self.random() < 0.7:
            return self.pick(entry.questions), self.definition(entry)
        fact = self.pick(entry.facts)
        return self.pick(fact.questions), self.pick(fact.statements)

    def _next(self, deck: ShuffledCycle[ThingWordings]) -> ThingWordings:
        entry = deck.deal()
        while self.subjects and entry is self.subjects[-1]:
            entry = deck.deal()
        return self.about(entry)


def _fact(thing: Thing, relation: str, value: str) -> Fact:
    wordings = RELATIONS[relation]
    return Fact(
        relation,
        tuple(say(wording, thing, value) for wording in wordings.statements),
        tuple(say(wording, thing) for wording in wordings.questions),
    )
