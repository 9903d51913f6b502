"""The same prompts for every model, continued greedily and by chance, to be read by people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from vita.data.records import Message
from vita.infer.sampling import Sampling
from vita.measure.report import Sample
from vita.spine.config import Settings

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


class Samples(Settings):
    """Which prompts are continued, and how."""

    prompts: tuple[str, ...] = PROMPTS
    """What the model is given; the same prompts make reports comparable."""
    greedy: bool = True
    """Continue each prompt with the likeliest tokens."""
    sampled: int = Field(default=2, ge=0)
    """How many continuations by chance each prompt gets."""
    temperature: float = Field(default=0.8, gt=0)
    """Temperature of the sampled continuations."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """The sampled continuations choose among the likeliest tokens that together have this probability."""
    max_tokens: int = Field(default=64, ge=1)
    """The longest continuation, in tokens."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the model made of a prompt."""

    prompt: str
    how: str
    text: str
    finish: str

    def as_json(self) -> dict[str, str]:
        return {"prompt": self.prompt, "how": self.how, "text": self.text, "finish": self.finish}


def continuations(engine: Engine, settings: Samples, *, as_chat: bool, seed: int = 0) -> list[Continuation]:
    """All continuations, prompt by prompt; by chance from the seed, so that a second run gives the same."""
    chance = Sampling(
        temperature=settings.temperature, top_k=0, top_p=settings.top_p, max_tokens=settings.max_tokens, seed=seed
    )
    ways = [("greedy", chance.model_copy(update={"temperature": 0.0}))] if settings.greedy else []
    ways += [(f"sampled {index}", one) for index, one in enumerate(chance.varied(settings.sampled), 1)]
    asked = [(prompt, how, sampling) for prompt in settings.prompts for how, sampling in ways]
    prompts = [prompt_ids(engine, prompt, as_chat=as_chat) for prompt, _, _ in asked]
    answers = engine.generate(prompts, [sampling for _, _, sampling in asked])
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
