"""Continuations of fixed prompts, greedy and sampled, for human readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vita.data.records import Message
from vita.infer.sampling import Sampling

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
class SampledContinuation:
    """A continuation of a prompt, with the decoding method and the finish reason."""

    prompt: str
    how: str
    text: str
    finish: str

    def as_json(self) -> dict[str, str]:
        return {"prompt": self.prompt, "how": self.how, "text": self.text, "finish": self.finish}


def continuations(
    engine: Engine, prompts: Sequence[str], *, sampling: Sampling, sampled: int, as_chat: bool
) -> list[SampledContinuation]:
    """Continue each prompt greedily and with `sampled` seeded samples; the result is reproducible."""
    decodings = [("greedy", sampling.model_copy(update={"temperature": 0.0}))]
    decodings += [(f"sampled {index}", variant) for index, variant in enumerate(sampling.varied(sampled), 1)]
    combinations = [(prompt, how, decoding) for prompt in prompts for how, decoding in decodings]
    prompts_ids = [prompt_ids(engine, prompt, as_chat=as_chat) for prompt, _, _ in combinations]
    answers = engine.generate(prompts_ids, [decoding for _, _, decoding in combinations])
    return [
        SampledContinuation(prompt, how, answer.text, answer.finish)
        for (prompt, how, _), answer in zip(combinations, answers, strict=True)
    ]


def prompt_ids(engine: Engine, prompt: str, *, as_chat: bool) -> list[int]:
    """Encode the prompt as a user message, or as the beginning of a document."""
    return engine.chat_ids([Message("user", prompt)]) if as_chat else engine.text_ids(prompt)
