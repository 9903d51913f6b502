"""Knowledge of the built-in world: one greedy answer per object, judged against the facts of the world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vita.data.world import Judgement, Question, World
from vita.evals.samples import prompt_ids
from vita.infer.sampling import Sampling
from vita.stats.intervals import Interval, share

if TYPE_CHECKING:
    from vita.infer.engine import Engine

Group = Literal["held_out", "seen"]
"""Objects without and with questions in the corpus."""


@dataclass(frozen=True, slots=True)
class WorldAnswer:
    """An answer about an object of the world, with its judgement."""

    question: Question
    group: Group
    answer: str
    judgement: Judgement
    continuation: str
    """The kind of the continuation: `answer`, `questions`, `text` or `noise`."""

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.question.thing,
            "group": self.group,
            "prompt": self.question.prompt,
            "answer": self.answer,
            "truth": self.question.answer,
            "accuracy": self.judgement.right,
            "kind_accuracy": self.judgement.kind_right,
            "property_accuracy": self.judgement.property_right,
            "continuation": self.continuation,
        }


def ask(engine: Engine, world: World, *, as_chat: bool, max_tokens: int = 48) -> list[WorldAnswer]:
    """Ask one question per object, both for objects with questions in the corpus and for objects without."""
    labelled_questions: list[tuple[Question, Group]] = [
        *((question, "held_out") for question in world.questions("never_asked")),
        *((question, "seen") for question in world.questions("asked")),
    ]
    prompts = [prompt_ids(engine, question.prompt, as_chat=as_chat) for question, _ in labelled_questions]
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, max_tokens=max_tokens, seed=0)
    answers = engine.generate(prompts, greedy)
    return [
        WorldAnswer(
            question,
            group,
            answer.text,
            world.judge(question, answer.text),
            world.continuation(question, answer.text),
        )
        for (question, group), answer in zip(labelled_questions, answers, strict=True)
    ]


def figures(answers: Sequence[WorldAnswer]) -> dict[str, Interval]:
    """Return the accuracy per group of objects, and the share of continuations that are answers."""
    shares: dict[str, Interval] = {}
    for group in ("held_out", "seen"):
        group_answers = [item for item in answers if item.group == group]
        shares |= {
            f"{group}/accuracy": share([item.judgement.right for item in group_answers]),
            f"{group}/kind_accuracy": share([item.judgement.kind_right for item in group_answers]),
            f"{group}/property_accuracy": share([item.judgement.property_right for item in group_answers]),
        }
    shares["answered"] = share([item.continuation == "answer" for item in answers])
    return shares


def continuations(answers: Sequence[WorldAnswer]) -> dict[str, int]:
    """Count the continuations that are an answer, more questions, other text, or noise."""
    counts = Counter(item.continuation for item in answers)
    return {name: counts[name] for name in ("answer", "questions", "text", "noise")}
