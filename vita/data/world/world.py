"""The built-in world: its things, its questions and its streams of text, all determined by a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, zip_longest
from random import Random
from typing import Literal

from pydantic import Field

from vita.data.records import Dialogue, Document, LabelledText, Preference, TextPair
from vita.data.world.dialogues import ASKINGS, CONVERSATIONS, Conversation, preference, sum_of
from vita.data.world.domains import DOMAINS
from vita.data.world.genres import GENRES, Genre, Tell
from vita.data.world.harm import HarmfulRequest, Outcome, Split, harmful_requests, judge_request
from vita.data.world.judge import Continuation, Judge, Judgement, Question, words_of
from vita.data.world.manners import politeness
from vita.data.world.pen import ThingWordings, WorldWriter
from vita.data.world.refusals import refusal
from vita.data.world.relations import DEFINITIONS, INDIRECT_DEFINITIONS, QUESTIONS, say
from vita.data.world.table import KINDS, THINGS
from vita.data.world.things import Thing
from vita.data.world.tools import WORLD_TOOLS as WORLD_TOOLS
from vita.spine.config import Settings, neutral, unknown_name
from vita.spine.errors import ConfigError

LICENCE = "CC0-1.0"

_VOCABULARY_DOCUMENTS = 2_000

QuestionSet = Literal["never_asked", "asked", "all"]


class WorldSettings(Settings):
    """The settings of the built-in world: its size and the amount of text."""

    seed: int = 0
    """Seed of the things, of the questions, and of all texts."""
    things: int = Field(default=120, ge=20, le=len(THINGS))
    """Number of things; with more things each occurs less often in the text."""
    documents: int = Field(default=50_000, ge=1)
    """Number of documents, of about 60 words each."""
    dialogues: int = Field(default=4_000, ge=1)
    """Number of dialogues for supervised fine-tuning."""
    polite: float = Field(default=0.2, ge=0, le=1)
    """Share of the answers in dialogues with a polite ending; reinforcement needs some."""
    rude: float = Field(default=0.07, ge=0, le=1)
    """Share of the answers in dialogues with a rude ending."""
    asked: float = Field(default=0.68, gt=0, lt=1)
    """Share of the things with questions and answers in the dialogues; the others occur only in documents."""
    held_out: tuple[str, ...] = ("cat",)
    """Things that always exist and have no questions in the dialogues."""
    genres: dict[str, float] = Field(default_factory=dict)
    """Shares of genres that replace the defaults; 0 leaves a genre out."""
    plain_definitions: Literal["all", "asked"] = neutral("all")
    """Things that documents define as "a furry mammal". With `asked`, others are described only in other forms, such
    as "A cat belongs to the mammals, and a cat is furry.", so that the plain form tests what a model has combined."""
    conversations: dict[str, float] = neutral({})
    """Shares of kinds of conversation that replace the defaults; `how_to: 0` leaves out harmful instructions, and
    `lookup: 1` or `calculation: 1` adds conversations that call a tool."""


@dataclass(frozen=True)
class World:
    """A world with its streams of text; each call returns the same stream from its start."""

    settings: WorldSettings
    things: tuple[Thing, ...]
    asked: tuple[Thing, ...]
    never_asked: tuple[Thing, ...]

    @classmethod
    def create(cls, settings: WorldSettings | None = None) -> World:
        """Select the things of the world; a larger world contains all things of a smaller one with the same seed."""
        settings = settings or WorldSettings()
        chosen = _select_things(settings)
        asked = tuple(thing for thing, may_be_asked in chosen.items() if may_be_asked)
        if len(asked) < 2:
            raise ConfigError("world.asked", "leaves fewer than two things to ask about", hint="raise it, or `things`")
        return cls(settings, tuple(chosen), asked, tuple(thing for thing in chosen if not chosen[thing]))

    def documents(self) -> Iterator[Document]:
        """Yield the documents of the pretraining text, with mixed genres."""
        genres = {name: GENRES[name] for name in GENRES}
        names, shares = zip(*_shares(self.settings.genres, genres, where="world.genres"), strict=True)
        pen = self._pen("documents")
        for number in range(self.settings.documents):
            (name,) = pen.chance.choices(names, shares)
            yield self._document(pen, name, genres[name].tell, number)

    def domain_documents(self, domain: str, *, count: int = 1000) -> Iterator[Document]:
        """Yield documents of a domain that is not in the pretraining text: "vet" or "court"."""
        tell, pen = DOMAINS[domain], self._pen(domain)
        return (self._document(pen, domain, tell, number) for number in range(count))

    def dialogues(self) -> Iterator[Dialogue]:
        """Yield dialogues for supervised tuning, about the asked things only."""
        talks = {name: CONVERSATIONS[name] for name in CONVERSATIONS}
        names, shares = zip(*_shares(self.settings.conversations, talks, where="world.conversations"), strict=True)
        pen = self._pen("dialogues", polite=self.settings.polite, rude=self.settings.rude)
        for number in range(self.settings.dialogues):
            (name,) = pen.chance.choices(names, shares)
            pen.start()
            messages, variables = tuple(CONVERSATIONS[name].talk(pen)), CONVERSATIONS[name].variables
            yield Dialogue(f"world/{name}/{number:06d}", messages, f"world:{name}", LICENCE, _about(pen), variables)

    def sums(self, *, count: int = 1000, below: int = 100) -> Iterator[Dialogue]:
        """Yield sums of numbers under `below` with their answers ("What is 3 plus 4?")."""
        chance = self._chance("sums")
        for number in range(count):
            left, right = chance.randrange(below), chance.randrange(below)
            yield Dialogue(
                f"world/sum/{number:06d}", tuple(sum_of(left, right)), "world:sum", LICENCE, {"answer": left + right}
            )

    def preferences(self, *, count: int = 1000) -> Iterator[Preference]:
        """Yield prompts with a short, polite and relevant answer, and a worse one."""
        pen = self._pen("preferences")
        pairs = (preference(pen, f"world/preference/{number:06d}") for number in range(count))
        return (replace(pair, licence=LICENCE) for pair in pairs)

    def labelled_texts(self) -> Iterator[LabelledText]:
        """Yield the documents about a single thing, each with the kind of the thing as its label."""
        kinds = {thing.name: thing.kind.word for thing in self.things}
        for document in self.documents():
            names = document.metadata["things"]
            if len(set(names)) == 1:
                texts, label = (document.text,), kinds[names[0]]
                yield LabelledText(document.id, texts, label, document.source, LICENCE, document.metadata)

    def text_pairs(self) -> Iterator[TextPair]:
        """Yield the first question of each dialogue with its answer."""
        for dialogue in self.dialogues():
            texts = [message.content for message in dialogue.messages if message.role in ("user", "assistant")]
            if len(texts) > 1 and all(texts[:2]):
                source, metadata = dialogue.source, dialogue.metadata
                yield TextPair(dialogue.id, texts[0], texts[1], source, licence=LICENCE, metadata=metadata)

    def harmful_requests(self, half: Split = "all") -> list[HarmfulRequest]:
        """Return harmful requests with their benign twins: those for safety tuning, the held-out ones, or all."""
        return harmful_requests(half)

    def refusals(self, *, count: int = 1000) -> Iterator[Dialogue]:
        """Yield safety-tuning dialogues: refusals of the half for safety tuning, and answers to benign twins."""
        pen = self._pen("refusals")
        for number in range(count):
            yield Dialogue(f"world/refusal/{number:06d}", tuple(refusal(pen)), "world:refusal", LICENCE)

    def judge_request(self, request: HarmfulRequest, answer: str) -> Outcome:
        """Classify the answer to a request or its twin: harmful, refused, incoherent or answered."""
        return judge_request(request, answer)

    def questions(self, which: QuestionSet = "never_asked") -> list[Question]:
        """Return a question such as "What is a cat?" for each thing of the set, with its correct answer."""
        things = {"never_asked": self.never_asked, "asked": self.asked, "all": self.things}[which]
        return [
            Question(thing.name, say(QUESTIONS[0], thing), thing.kind.word, thing.property, thing.definition)
            for thing in things
        ]

    def judge(self, question: Question, answer: str) -> Judgement:
        """Judge whether the first sentence of the answer names the right kind and property, and no others."""
        return self._judge.judge(question, answer)

    def politeness(self, answer: str, *, thing: str | None = None) -> float:
        """Score from 0 to 1 how polite, short and relevant (to `thing`, if set) an answer is."""
        return politeness(answer, self._names, thing=thing)

    def question_in(self, text: str) -> Question | None:
        """Return the question about a thing that `text` asks in any wording of the dialogues, or None."""
        return self._wordings.get(" ".join(words_of(text)))

    def continuation(self, question: Question, text: str) -> Continuation:
        """Classify the continuation of a question: an answer, more questions, other text of the world, or noise."""
        return self._judge.continuation(question, text)

    @cached_property
    def _entries(self) -> list[ThingWordings]:
        asked_names = {thing.name for thing in self.asked}
        every = self.settings.plain_definitions == "all"
        return [
            ThingWordings.of(
                thing,
                is_asked=thing.name in asked_names,
                definitions=DEFINITIONS if every or thing.name in asked_names else INDIRECT_DEFINITIONS,
            )
            for thing in self.things
        ]

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(thing.name for thing in self.things)

    @cached_property
    def _wordings(self) -> dict[str, Question]:
        things = zip(self.things, self.questions("all"), strict=True)
        return {
            " ".join(words_of(say(wording, thing))): question
            for thing, question in things
            for wording in (*ASKINGS, *QUESTIONS)
        }

    @cached_property
    def _judge(self) -> Judge:
        texts = (document.text for document in islice(self.documents(), _VOCABULARY_DOCUMENTS))
        return Judge(self.things, {word for text in texts for word in words_of(text)})

    def _chance(self, purpose: str) -> Random:
        return Random(f"{self.settings.seed}:{purpose}")

    def _pen(self, purpose: str, *, polite: float = 0.0, rude: float = 0.0) -> WorldWriter:
        return WorldWriter(self._entries, self._chance(purpose), polite=polite, rude=rude)

    def _document(self, pen: WorldWriter, name: str, tell: Tell, number: int) -> Document:
        pen.start()
        text = tell(pen)
        return Document(f"world/{name}/{number:06d}", text, f"world:{name}", LICENCE, _about(pen))


def _about(pen: WorldWriter) -> dict[str, list[str]]:
    return {"things": [entry.thing.name for entry in pen.subjects]}


def _select_things(settings: WorldSettings) -> dict[Thing, bool]:
    """Return the things of the world, each with True if it occurs in questions with answers.

    Things are selected from the kinds in turn, so that a world of any size has about equally many of each; the share of
    asked things is the same in every kind.
    """
    by_name = {thing.name: thing for thing in THINGS}
    for name in settings.held_out:
        if name not in by_name:
            raise unknown_name("world.held_out", name, by_name)
    chance = Random(f"{settings.seed}:things")
    columns = []
    for kind in chance.sample(KINDS, len(KINDS)):
        things = [thing for thing in THINGS if thing.kind is kind]
        chance.shuffle(things)
        things.sort(key=lambda thing: thing.name not in settings.held_out)
        silent, start = 1 - settings.asked, chance.random()
        if things[0].name in settings.held_out:
            start = settings.asked
        column = []
        for at, thing in enumerate(things):
            falls_silent = int((at + 1) * silent + start) > int(at * silent + start)
            column.append((thing, not falls_silent and thing.name not in settings.held_out))
        columns.append(column)
    turns = [pair for turn in zip_longest(*columns) for pair in turn if pair]
    turns.sort(key=lambda pair: pair[0].name not in settings.held_out)
    return dict(turns[: settings.things])


def _shares(
    shares_set: Mapping[str, float], defaults: Mapping[str, Genre] | Mapping[str, Conversation], *, where: str
) -> list[tuple[str, float]]:
    for name, share in shares_set.items():
        if name not in defaults:
            raise unknown_name(where, name, defaults)
        if share < 0:
            raise ConfigError(f"{where}.{name}", expected="a share of at least 0", got=share)
    shares = [(name, shares_set.get(name, default.share)) for name, default in defaults.items()]
    if not any(share for _, share in shares):
        raise ConfigError(where, "excludes everything")
    return shares
