"""Generation of the answers for a review: the same prompts, seeds and settings for every version."""

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
from vita.review.desk import ReviewAnswer, ReviewItem
from vita.review.guideline import Kind
from vita.spine.errors import DataError

if TYPE_CHECKING:
    from vita.infer.engine import Engine

Prompts = Mapping[str, tuple[Message, ...]]
"""name -> the messages that an answer follows."""


def read_prompts(path: str) -> Prompts:
    """Read the prompts of a file: lines of text, or rows as for training; `world` gives the questions of the world."""
    if path == "world":
        questions = World.create().questions("all")
        return {question.thing: (Message("user", question.prompt),) for question in questions}
    if PurePosixPath(path).name.split(".")[-1] in ("txt", "md"):
        source = Source.model_validate({"path": path, "cut_at": "lines"})
        texts = [document.text.strip() for document in documents(source)]
        prompts_by_id = {str(number): (Message("user", text),) for number, text in enumerate(texts, 1) if text}
    else:
        prompts_by_id = {prompt.id: prompt.messages for prompt in prompts(Source.model_validate(path))}
    if not prompts_by_id:
        raise DataError(path, expected="prompts, one a line or row", got="none")
    return prompts_by_id


def sample_prompts(candidates: Prompts, limit: int | None, *, seed: int) -> tuple[Prompts, float]:
    """Return at most `limit` prompts, sampled with the seed, and the sampling probability."""
    if limit is None or limit >= len(candidates):
        return candidates, 1.0
    indices = sorted(Random(seed).sample(range(len(candidates)), limit))
    names = list(candidates)
    return {names[index]: candidates[names[index]] for index in indices}, limit / len(candidates)


def answers(engine: Engine, questions: Prompts, *, sampling: Sampling) -> list[tuple[str, str, int]]:
    """Return (text, finish reason, seed) for each prompt; its seed depends only on the sampling seed and its name."""
    samplings = [
        sampling.model_copy(update={"seed": Random(f"{sampling.seed}:{name}").getrandbits(48)}) for name in questions
    ]
    ids = [_ids(engine, messages) for messages in questions.values()]
    completions = engine.generate(ids, samplings)
    return [
        (answer.text, answer.finish, answer_sampling.seed)
        for answer, answer_sampling in zip(completions, samplings, strict=True)
    ]


def items(
    questions: Prompts,
    answers_by_model: Mapping[str, Sequence[tuple[str, str, int]]],
    *,
    kind: Kind,
    probability: float,
) -> list[ReviewItem]:
    """Return an item per prompt and pair of versions (the first version is `a`), or per prompt and version."""
    models = list(answers_by_model)
    groups = list(combinations(models, 2)) if kind == "pairwise" else [(model,) for model in models]
    if not groups:
        raise DataError("review", expected="at least two versions to compare", got=len(models))
    review_items: list[ReviewItem] = []
    for number, (name, messages) in enumerate(questions.items()):
        for group in groups:
            group_answers = tuple(ReviewAnswer(model, *answers_by_model[model][number]) for model in group)
            label = name if len(groups) == 1 else f"{name}/{'-'.join(model[:8] for model in group)}"
            review_items.append(ReviewItem(label, messages, group_answers, probability))
    return review_items


def _ids(engine: Engine, messages: Sequence[Message]) -> list[int]:
    """Encode with the chat template; a base model continues the text of the last message."""
    return engine.chat_ids(messages) if engine.template else engine.text_ids(messages[-1].content)
