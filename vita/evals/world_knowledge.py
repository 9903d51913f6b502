"""Does a model of the embedded world know its things? Each is asked for once, greedily, and judged by the truth."""

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

Asked = Literal["never_asked", "asked"]


@dataclass(frozen=True, slots=True)
class Known:
    """An answer about a thing of the world, and what it got right."""

    question: Question
    group: Asked
    answer: str
    judgement: Judgement
    continuation: str
    """How the text goes on: `answer`, `questions`, `text` or `noise`."""

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.question.thing,
            "group": self.group,
            "prompt": self.question.prompt,
            "answer": self.answer,
            "truth": self.question.answer,
            "right": self.judgement.right,
            "kind": self.judgement.kind_right,
            "property": self.judgement.property_right,
            "continuation": self.continuation,
        }


def ask(engine: Engine, world: World, *, as_chat: bool, max_tokens: int = 48) -> list[Known]:
    """One question for every thing: those asked about in the corpus, and those of which it only tells."""
    groups: tuple[Asked, ...] = ("never_asked", "asked")
    asked: list[tuple[Question, Asked]] = [(question, group) for group in groups for question in world.questions(group)]
    prompts = [prompt_ids(engine, question.prompt, as_chat=as_chat) for question, _ in asked]
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, max_tokens=max_tokens, seed=0)
    answers = engine.generate(prompts, greedy)
    return [
        Known(
            question,
            group,
            answer.text,
            world.judge(question, answer.text),
            world.continuation(question, answer.text),
        )
        for (question, group), answer in zip(asked, answers, strict=True)
    ]


def figures(known: Sequence[Known]) -> dict[str, Interval]:
    """Shares right about the things of each group, and of texts that go on with an answer at all."""
    found: dict[str, Interval] = {}
    for group in ("never_asked", "asked"):
        own = [one for one in known if one.group == group]
        found |= {
            f"{group}/right": share([one.judgement.right for one in own]),
            f"{group}/kind": share([one.judgement.kind_right for one in own]),
            f"{group}/property": share([one.judgement.property_right for one in own]),
        }
    found["answers"] = share([one.continuation == "answer" for one in known])
    return found


def continuations(known: Sequence[Known]) -> dict[str, int]:
    """How many texts go on with an answer, with more questions, with other text, or with noise."""
    counted = Counter(one.continuation for one in known)
    return {name: counted[name] for name in ("answer", "questions", "text", "noise")}
