"""The things of the built-in world, of several kinds, each with one property and a fact per relation.

The things are the lines of `table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_VOWELS = "aeiou"
_SOUNDS_LIKE_A_CONSONANT = ("use", "uni", "uku", "eu", "one")
_SOUNDS_LIKE_A_VOWEL = ("hour", "honest", "heir")


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A group of things with the same relations; a definition is judged by the word `word`."""

    word: str
    relations: tuple[str, ...]
    rows: str = field(repr=False)
    singular: str
    plural: str
    pronoun: str


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """A thing: for example a cat, whose kind is mammal and whose property is furry; its facts map relation to value."""

    name: str
    kind: Kind
    property: str
    facts: Mapping[str, str]
    a: str
    """The name with its indefinite article: "a cat", "an owl", "rain"."""
    the: str
    """The name of the species: "the cat", "rain"."""
    definition: str
    """The plain definition: "A cat is a furry mammal."."""


def kind(
    word: str,
    relations: str,
    *,
    rows: str,
    singular: str | None = None,
    plural: str | None = None,
    pronoun: str = "that",
) -> Kind:
    """Create a kind with its lines of the table; `singular` and `plural` are the nouns for its things."""
    return Kind(
        word, tuple(relations.split()), rows, singular=singular or word, plural=plural or f"{word}s", pronoun=pronoun
    )


def things_of(kind: Kind) -> list[Thing]:
    """Return the things in the table lines of the kind."""
    return [_thing(kind, line) for line in kind.rows.strip().splitlines()]


def with_article(words: str) -> str:
    """Return `words` after "a" or "an", depending on their sound."""
    vowel = words[0] in _VOWELS and not words.startswith(_SOUNDS_LIKE_A_CONSONANT)
    return f"{'an' if vowel or words.startswith(_SOUNDS_LIKE_A_VOWEL) else 'a'} {words}"


def capitalised(words: str) -> str:
    """Return `words` with a capital first letter; the rest is unchanged."""
    return words[:1].upper() + words[1:]


def _thing(kind: Kind, line: str) -> Thing:
    name, prop, *values = (column.strip() for column in line.split("|"))
    assert len(values) == len(kind.relations), f"`{name}` has {len(values)} values for {len(kind.relations)} relations"
    facts = dict(zip(kind.relations, values, strict=True))
    counted, name = not name.startswith("~"), name.removeprefix("~")
    a = with_article(name) if counted else name
    definition = f"{capitalised(a)} is {with_article(prop)} {kind.singular}."
    return Thing(name, kind, prop, facts, a=a, the=f"the {name}" if counted else name, definition=definition)
