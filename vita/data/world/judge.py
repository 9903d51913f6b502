"""Judgement of answers about the built-in world: correctness, and the kind of a continuation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vita.data.world.things import Thing

Continuation = Literal["answer", "questions", "text", "noise"]

_WORD = re.compile(r"[a-z]+")
_SENTENCE = re.compile(r"[^.!?\n]*[a-zA-Z][^.!?\n]*[.!?]?")
_DENIALS = {"not", "no", "never"}
_KNOWN_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a thing, with the words that a correct answer must contain."""

    thing: str
    prompt: str
    kind: str
    property: str
    answer: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judgement of the first sentence of an answer."""

    thing_right: bool
    kind_right: bool
    property_right: bool

    @property
    def right(self) -> bool:
        """Return True if kind and property are correct and no other thing is named."""
        return self.thing_right and self.kind_right and self.property_right


class Judge:
    """A judge with the names, kinds and properties of a world, and the vocabulary of its text."""

    def __init__(self, things: Sequence[Thing], vocabulary: Collection[str]) -> None:
        self._things = {thing.name: thing for thing in things}
        self._kinds = {form: thing.kind.word for thing in things for form in (thing.kind.word, f"{thing.kind.word}s")}
        self._properties = {thing.property for thing in things}
        self._vocabulary = frozenset(vocabulary)

    def judge(self, question: Question, answer: str) -> Judgement:
        """Compare the first sentence of `answer` with the truth, word by word.

        Another kind, property or thing in the sentence makes it wrong, unless the facts of the thing contain it ("a
        furry mammal that eats mice and fish").
        """
        sentence = next(iter(sentences(answer)), "")
        words = words_of(sentence)
        if sentence.endswith("?") or _DENIALS.intersection(words):
            return Judgement(False, False, False)
        fact_words = set(words_of(" ".join(self._things[question.thing].facts.values())))
        other_words = [word for word in words if word == question.property or word not in fact_words]
        kinds = {self._kinds[word] for word in words if word in self._kinds}
        foreign = {self._kinds[word] for word in other_words if word in self._kinds}
        named = {word for word in other_words if word in self._things and word not in self._properties}
        return Judgement(
            thing_right=named <= {question.thing},
            kind_right=question.kind in kinds and foreign <= {question.kind},
            property_right={word for word in other_words if word in self._properties} == {question.property},
        )

    def continuation(self, question: Question, text: str) -> Continuation:
        """Classify a continuation of the question: an answer, more questions, other text, or noise."""
        for sentence in list(sentences(text))[:2]:
            words = words_of(sentence)
            if sentence.endswith("?"):
                return "questions"
            if question.thing in words or words[:1] == ["it"]:
                return "answer"
        words = words_of(text)
        known = sum(word in self._vocabulary for word in words)
        return "text" if words and known >= _KNOWN_SHARE * len(words) else "noise"


def sentences(text: str) -> Iterable[str]:
    """Return the sentences of a text; a line break also ends a sentence."""
    return (match.group().strip() for match in _SENTENCE.finditer(text))


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())
