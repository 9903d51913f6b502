"""The same prompts for every model, continued greedily and by chance, to be read by people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vita.data.records import Message
from vita.infer.sampling import Sampling
from vita.reporting.page import Sample

if TYPE_CHECKING:
    from vita.infer.engine import Engine

PROMPTS = (
    "What is a cat?",
    "A cat is",
    "Once upon a time",
    "The capital of France is",
    "In the morning, the old man",
    "1 + 1 =",
)


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the model made of a prompt."""

    prompt: str
    how: str
    text: str
    finish: str

    def as_json(self) -> dict[str, str]:
        return {"prompt": self.prompt, "how": self.how, "text": self.text, "finish": self.finish}


def continuations(
    engine: Engine, prompts: Sequence[str], *, sampling: Sampling, sampled: int, as_chat: bool
) -> list[Continuation]:
    """Each prompt continued greedily and `sampled` times by chance; a second run gives the same."""
    ways = [("greedy", sampling.model_copy(update={"temperature": 0.0}))]
    ways += [(f"sampled {index}", one) for index, one in enumerate(sampling.varied(sampled), 1)]
    asked = [(prompt, how, way) for prompt in prompts for how, way in ways]
    given = [prompt_ids(engine, prompt, as_chat=as_chat) for prompt, _, _ in asked]
    answers = engine.generate(given, [way for _, _, way in asked])
    return [
        Continuation(prompt, how, answer.text, answer.finish)
        for (prompt, how, _), answer in zip(asked, answers, strict=True)
    ]


def prompt_ids(engine: Engine, prompt: str, *, as_chat: bool) -> list[int]:
    """The prompt as a user's message, or as the beginning of a document."""
    return engine.chat_ids([Message("user", prompt)]) if as_chat else engine.text_ids(prompt)


def as_blocks(found: Sequence[Continuation]) -> list[Sample]:
    """The continuations for a report, a block per prompt."""
    prompts = dict.fromkeys(one.prompt for one in found)
    return [Sample(prompt, [(one.how, one.text) for one in found if one.prompt == prompt]) for prompt in prompts]
