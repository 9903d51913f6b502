"""A needle in a haystack: a sentence at some depth of a long text, and a question that only it answers.

Needles are generated sentences ("The secret number of Lisbon is 4821.") or facts of the built-in world. A base model
continues the beginning of the sentence, or the question about the world; a chat model answers a question. Every length
and depth of the text is tested with several needles, and an answer is correct if it holds the expected value.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from vita.data.sources.read import Source, documents
from vita.data.world import World, WorldSettings
from vita.evals.samples import prompt_ids
from vita.infer.sampling import Sampling
from vita.reporting.charts import heat_map
from vita.reporting.page import Figure
from vita.spine.config import Settings
from vita.spine.errors import ConfigError, DataError
from vita.stats.intervals import Interval, share

if TYPE_CHECKING:
    from vita.infer.engine import Engine

Depth = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[int, Field(ge=32)]

FILLER = (
    "The river runs quietly past the old mill.",
    "Clouds move slowly over the hills in the morning.",
    "A bus stops at the corner every twenty minutes.",
    "The baker opens the shop before the sun comes up.",
    "Leaves fall from the trees along the road.",
    "Someone plays the piano in the house next door.",
    "The market sells bread, apples and cheese.",
    "Rain is expected in the evening.",
)
"""Sentences of the haystack without texts."""
CITIES = (
    *("Lisbon", "Oslo", "Cairo", "Lima", "Tokyo", "Nairobi", "Geneva", "Quebec", "Havana", "Dublin", "Athens"),
    *("Delhi", "Boston", "Prague", "Seoul", "Tunis", "Warsaw", "Zagreb", "Madrid", "Perth"),
)


class NeedleSettings(Settings):
    """The lengths and depths of the test, its needles and its haystack."""

    lengths: tuple[Length, ...] = ()
    """Lengths of the text in tokens; by default a quarter, a half and all of the model's context."""
    depths: tuple[Depth, ...] = Field((0.0, 0.25, 0.5, 0.75, 1.0), min_length=1)
    """Depths of the needle, from 0 (beginning of the text) to 1 (end)."""
    samples: int = Field(8, ge=1)
    """Needles per length and depth."""
    haystack: Source | None = None
    """Source of the surrounding text; by default sentences of everyday life."""
    world: WorldSettings | None = None
    """Settings of a built-in world whose facts are the needles, instead of generated numbers."""
    max_tokens: int = Field(24, ge=1)
    """Maximum tokens of an answer."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence to find, and its question."""

    sentence: str
    question: str
    """The question for a chat model."""
    beginning: str
    """The text that a base model continues."""
    expected: str
    is_correct: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class NeedleResult:
    """The answer about a needle."""

    length: int
    depth: float
    sample: int
    expected: str
    answer: str
    correct: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "id": f"{self.length}-{self.depth}-{self.sample}",
            "length": self.length,
            "depth": self.depth,
            "expected": self.expected,
            "answer": self.answer,
            "accuracy": self.correct,
        }


def find_needles(engine: Engine, settings: NeedleSettings, *, as_chat: bool, seed: int) -> list[NeedleResult]:
    """Test every length and depth; raise a `ConfigError` for a length beyond the context of the model."""
    context = engine.model.architecture.context
    for length in settings.lengths:
        if length > context:
            raise ConfigError("needle.lengths", expected=f"at most {context}, the model's context", got=length)
    lengths = settings.lengths or tuple(sorted({max(32, context // part) for part in (4, 2, 1)}))
    sentences = _haystack(settings)
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, max_tokens=settings.max_tokens, seed=0)
    results: list[NeedleResult] = []
    for length in lengths:
        cells = [(depth, sample) for depth in settings.depths for sample in range(settings.samples)]
        needles = [_needle(settings, random.Random(f"{seed}/{length}/{depth}/{sample}")) for depth, sample in cells]
        prompts = [
            _prompt(engine, needle, sentences, random.Random(f"{seed}/{length}/{sample}"), length=length,
                    depth=depth, room=settings.max_tokens, as_chat=as_chat)
            for needle, (depth, sample) in zip(needles, cells, strict=True)
        ]  # fmt: skip
        answers = engine.generate(prompts, greedy)
        for needle, (depth, sample), answer in zip(needles, cells, answers, strict=True):
            correct = needle.is_correct(answer.text)
            results.append(NeedleResult(length, depth, sample, needle.expected, answer.text, correct))
    return results


def figures(results: Sequence[NeedleResult]) -> dict[str, dict[str, Interval]]:
    """Return the accuracy of all needles, and of each length by depth."""
    rows = {"needle": {"accuracy": share([result.correct for result in results])}}
    for length in dict.fromkeys(result.length for result in results):
        of_length = [result for result in results if result.length == length]
        row = {"accuracy": share([result.correct for result in of_length])}
        for depth in dict.fromkeys(result.depth for result in of_length):
            correct = [result.correct for result in of_length if result.depth == depth]
            row[f"accuracy/depth {depth:.0%}"] = share(correct)
        rows[f"{length} tokens"] = row
    return rows


def needle_map(results: Sequence[NeedleResult]) -> Figure:
    """Return a heat map of the accuracy by depth and length."""
    lengths = list(dict.fromkeys(result.length for result in results))
    rows = {
        f"{depth:.0%}": [
            _mean([result.correct for result in results if (result.length, result.depth) == (length, depth)])
            for length in lengths
        ]
        for depth in dict.fromkeys(result.depth for result in results)
    }
    columns = [f"{length:,}" for length in lengths]
    chart = heat_map(rows, columns=columns, x="length of the text in tokens", y="depth of the needle")
    return Figure("needle", chart, "Share of needles that were found, by the length of the text and the depth.")


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _haystack(settings: NeedleSettings) -> list[str]:
    if settings.haystack is None:
        return list(FILLER)
    text = " ".join(document.text for _, document in zip(range(200), documents(settings.haystack), strict=False))
    sentences = [sentence.strip() for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence.strip()]
    if not sentences:
        raise DataError("needle.haystack", "contains no sentences")
    return sentences


def _needle(settings: NeedleSettings, rng: random.Random) -> Needle:
    if settings.world is not None:
        world = World.create(settings.world)
        question = rng.choice(world.questions("never_asked"))
        judge = lambda text: world.judge(question, text).right  # noqa: E731
        return Needle(question.answer, question.prompt, question.prompt, question.answer, judge)
    city, value = rng.choice(CITIES), str(rng.randrange(1000, 10000))
    beginning = f"The secret number of {city} is"
    return Needle(
        f"{beginning} {value}.",
        f"What is the secret number of {city}? Answer with the number only.",
        beginning,
        value,
        lambda text: re.search(rf"(?<!\d){value}(?!\d)", text) is not None,
    )


def _prompt(
    engine: Engine,
    needle: Needle,
    sentences: Sequence[str],
    rng: random.Random,
    *,
    length: int,
    depth: float,
    room: int,
    as_chat: bool,
) -> list[int]:
    """Return the longest prompt whose tokens and answer have at most `length` tokens."""
    last = needle.question if as_chat else needle.beginning
    start = rng.randrange(len(sentences))
    chosen: list[str] = []
    budget = length - room
    used = len(prompt_ids(engine, f"{needle.sentence}\n{last}", as_chat=as_chat))
    for sentence in _cycle(sentences, start):
        used += len(engine.tokenizer.encode(f" {sentence}"))
        if used > budget:
            break
        chosen.append(sentence)
    while True:
        index = round(depth * len(chosen))
        text = " ".join([*chosen[:index], needle.sentence, *chosen[index:]])
        ids = prompt_ids(engine, f"{text}\n{last}", as_chat=as_chat)
        if len(ids) <= budget:
            return ids
        if not chosen:
            hint = "choose longer lengths, or fewer `max_tokens`"
            raise ConfigError("needle.lengths", f"{length} tokens do not hold the needle and its answer", hint=hint)
        chosen.pop()


def _cycle(sentences: Sequence[str], start: int) -> Iterator[str]:
    index = start
    while True:
        yield sentences[index % len(sentences)]
        index += 1
