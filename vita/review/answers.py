"""The answers that are put before raters: the same prompts, seeds and settings for every version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import PurePosixPath
from random import Random
from typing import TYPE_CHECKING

from vita.data.records import Message
from vita.data.sources.prompts import prompts
from vita.data.sources.read import Source, documents
from vita.data.world import World
from vita.infer.sampling import Sampling
from vita.review.desk import Answer, Item
from vita.review.guideline import Kind
from vita.spine.errors import DataError

if TYPE_CHECKING:
    from vita.infer.engine import Engine

Prompts = Mapping[str, tuple[Message, ...]]
"""name -> the messages that an answer follows."""


def read_prompts(given: str) -> Prompts:
    """The prompts of a file: a line each of a text file, or rows as for training; `world` asks for its things."""
    if given == "world":
        asked = World.create().questions("all")
        return {question.thing: (Message("user", question.prompt),) for question in asked}
    if PurePosixPath(given).name.split(".")[-1] in ("txt", "md"):
        source = Source.model_validate({"path": given, "cut_at": "lines"})
        texts = [document.text.strip() for document in documents(source)]
        found = {str(number): (Message("user", text),) for number, text in enumerate(texts, 1) if text}
    else:
        found = {one.id: one.messages for one in prompts(Source.model_validate(given))}
    if not found:
        raise DataError(given, expected="prompts, one a line or row", got="none")
    return found


def chosen(found: Prompts, limit: int | None, *, seed: int) -> tuple[Prompts, float]:
    """At most `limit` prompts drawn by the seed, and how likely each was to be drawn."""
    if limit is None or limit >= len(found):
        return found, 1.0
    kept = sorted(Random(seed).sample(range(len(found)), limit))
    names = list(found)
    return {names[at]: found[names[at]] for at in kept}, limit / len(found)


def answers(engine: Engine, asked: Prompts, *, sampling: Sampling) -> list[tuple[str, str, int]]:
    """(text, how it ended, seed) for each prompt, whose seed depends on the settings' and on its name alone."""
    ways = [sampling.model_copy(update={"seed": Random(f"{sampling.seed}:{name}").getrandbits(48)}) for name in asked]
    ids = [_ids(engine, messages) for messages in asked.values()]
    found = engine.generate(ids, ways)
    return [(answer.text, answer.finish, way.seed) for answer, way in zip(found, ways, strict=True)]


def items(
    asked: Prompts, said: Mapping[str, Sequence[tuple[str, str, int]]], *, kind: Kind, probability: float
) -> list[Item]:
    """Every pair of versions on every prompt (the earlier-named is `a`), or every answer by itself."""
    models = list(said)
    groups = list(combinations(models, 2)) if kind == "pairwise" else [(model,) for model in models]
    if not groups:
        raise DataError("review", expected="at least two versions to compare", got=len(models))
    found: list[Item] = []
    for number, (name, messages) in enumerate(asked.items()):
        for group in groups:
            own = tuple(Answer(model, *said[model][number]) for model in group)
            label = name if len(groups) == 1 else f"{name}/{'-'.join(model[:8] for model in group)}"
            found.append(Item(label, messages, own, probability))
    return found


def _ids(engine: Engine, messages: Sequence[Message]) -> list[int]:
    """Through the chat template; a base model goes on from the text of the last message."""
    return engine.chat_ids(messages) if engine.template else engine.text_ids(messages[-1].content)
