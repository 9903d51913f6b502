"""The things of the embedded world, of several kinds, each with one property and a fact for each relation.

The things themselves are the lines of `table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_VOWELS = "aeiou"
_SOUNDS_LIKE_A_CONSONANT = ("use", "uni", "uku", "eu", "one")
_SOUNDS_LIKE_A_VOWEL = ("hour", "honest", "heir")


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A group of things that share their relations; `word` is the one word by which a definition is judged."""

    word: str
    relations: tuple[str, ...]
    rows: str = field(repr=False)
    one: str
    many: str
    pronoun: str


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """Something of the world: a cat is a mammal, its property is furry, and its facts map relation to value."""

    name: str
    kind: Kind
    property: str
    facts: Mapping[str, str]
    a: str
    """The name with its indefinite article: "a cat", "an owl", "rain"."""
    the: str
    """The name as a whole species: "the cat", "rain"."""
    definition: str
    """The plain definition: "A cat is a furry mammal."."""


def kind(
    word: str, relations: str, *, rows: str, one: str | None = None, many: str | None = None, pronoun: str = "that"
) -> Kind:
    """A kind with its lines of the table; `one` and `many` say how a single thing and all of them are called."""
    return Kind(word, tuple(relations.split()), rows, one=one or word, many=many or f"{word}s", pronoun=pronoun)


def things_of(kind: Kind) -> list[Thing]:
    """The things in the kind's lines of the table."""
    return [_thing(kind, line) for line in kind.rows.strip().splitlines()]


def with_article(words: str) -> str:
    """`words` after "a" or "an", by how they sound."""
    vowel = words[0] in _VOWELS and not words.startswith(_SOUNDS_LIKE_A_CONSONANT)
    return f"{'an' if vowel or words.startswith(_SOUNDS_LIKE_A_VOWEL) else 'a'} {words}"


def capitalised(words: str) -> str:
    """`words` with a capital first letter, the rest as it was."""
    return words[:1].upper() + words[1:]


def _thing(kind: Kind, line: str) -> Thing:
    name, prop, *values = (column.strip() for column in line.split("|"))
    assert len(values) == len(kind.relations), f"`{name}` has {len(values)} values for {len(kind.relations)} relations"
    facts = dict(zip(kind.relations, values, strict=True))
    counted, name = not name.startswith("~"), name.removeprefix("~")
    a = with_article(name) if counted else name
    definition = f"{capitalised(a)} is {with_article(prop)} {kind.one}."
    return Thing(name, kind, prop, facts, a=a, the=f"the {name}" if counted else name, definition=definition)
