"""The random writer of the text of the built-in world: it selects things, wordings and people.

Things come from shuffled cycles, so that all are written about equally often. Questions with answers are only about the
asked things.
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
    """A thing with all wordings of its definition, questions and facts."""

    thing: Thing
    is_asked: bool
    a: str
    definitions: tuple[str, ...]
    questions: tuple[str, ...]
    facts: tuple[Fact, ...]

    @classmethod
    def of(cls, thing: Thing, *, is_asked: bool, definitions: Sequence[str] = DEFINITIONS) -> ThingWordings:
        """Word all that is known about `thing`."""
        return cls(
            thing,
            is_asked,
            thing.a,
            tuple(say(wording, thing) for wording in definitions),
            tuple(say(wording, thing) for wording in QUESTIONS),
            tuple(_fact(thing, relation, value) for relation, value in thing.facts.items()),
        )


class ShuffledCycle(Generic[X]):
    """An endless cycle over items in shuffled rounds: each item occurs once per round."""

    def __init__(self, cards: Sequence[X], chance: Random) -> None:
        self._cards, self._chance, self._next = list(cards), chance, len(cards)

    def deal(self) -> X:
        """Return the next item."""
        if self._next == len(self._cards):
            last = self._cards[-1]
            self._chance.shuffle(self._cards)
            if self._cards[0] is last:  # two consecutive items differ
                self._cards.reverse()
            self._next = 0
        self._next += 1
        return self._cards[self._next - 1]


class WorldWriter:
    """A writer of text about the things of one world, with one random stream."""

    def __init__(
        self, entries: Sequence[ThingWordings], random_source: Random, *, polite: float = 0.0, rude: float = 0.0
    ) -> None:
        """Create a writer; `polite` and `rude` are the probabilities of such endings of answers."""
        self.entries, self.chance = entries, random_source
        self.polite, self.rude = polite, rude
        self.random = random_source.random
        # Questions with answers are only about asked things; the other text names the others more often in return.
        balanced = [entry for entry in entries for _ in range(2 if entry.is_asked else 3)]
        self.any, self.asked = (
            ShuffledCycle(balanced, random_source),
            ShuffledCycle([entry for entry in entries if entry.is_asked], random_source),
        )
        self._people = ShuffledCycle(PEOPLE, random_source)
        self.subjects: list[ThingWordings] = []
        """The things that the current text is about, in order."""

    def start(self) -> None:
        """Begin a new text."""
        self.subjects = []

    def thing(self) -> ThingWordings:
        """Return the next thing to write about."""
        return self._next(self.any)

    def asked_thing(self) -> ThingWordings:
        """Return the next thing that has questions with answers."""
        return self._next(self.asked)

    def about(self, entry: ThingWordings) -> ThingWordings:
        """Record that the text is about `entry`."""
        self.subjects.append(entry)
        return entry

    def like(self, entry: ThingWordings, count: int) -> list[ThingWordings]:
        """Return up to `count` other things of the same kind."""
        same = [other for other in self.entries if other.thing.kind is entry.thing.kind and other is not entry]
        return [self.about(other) for other in self.some(same, count)]

    def person(self) -> str:
        """Return a person, different from the last one."""
        return self._people.deal()

    def pick(self, choices: Sequence[X]) -> X:
        """Return a random choice."""
        return choices[int(self.random() * len(choices))]

    def some(self, choices: Sequence[X], count: int) -> list[X]:
        """Return `count` different choices in random order."""
        mixed = list(choices)
        self.chance.shuffle(mixed)
        return mixed[:count]

    def number(self, low: int, high: int) -> int:
        """Return a random integer from `low` to `high`, inclusive."""
        return low + int(self.random() * (high - low + 1))

    def definition(self, entry: ThingWordings) -> str:
        """Return the definition, every third time in the plain wording."""
        return entry.definitions[0] if self.random() < 0.33 else self.pick(entry.definitions)

    def facts(self, entry: ThingWordings, count: int) -> list[str]:
        """Return `count` different facts, in random order and wording."""
        return [self.pick(fact.statements) for fact in self.some(entry.facts, count)]

    def telling(self, entry: ThingWordings, *, facts: int) -> list[str]:
        """Return facts with the definition at a random position among them."""
        sentences = self.facts(entry, facts)
        sentences.insert(self.number(0, facts), self.definition(entry))
        return sentences

    def question_about(self, entry: ThingWordings) -> str:
        """Return a question for the definition of a thing, or for one of its facts."""
        return self.pick(entry.questions) if self.random() < 0.5 else self.pick(self.pick(entry.facts).questions)

    def exchange(self, entry: ThingWordings) -> tuple[str, str]:
        """Return a question about an asked thing with its answer: mostly its definition, otherwise a fact."""
        assert entry.is_asked, f"{entry.a} has no questions with answers"
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
