"""Automatic judges of review tasks: rules, and models that read both answers.

    vote(desk, task, "rule:shorter", JUDGES["shorter"], kind="rule")
    vote(desk, task, "judge:cat/sft", ModelJudge(engine), kind="judge")

Their votes are separate from the votes of people; the report measures the agreement of each judge with people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vita.data.records import Message
from vita.evals.edge_cases import repeated_share
from vita.review.desk import RaterKind, ReviewItem, ReviewStore, ReviewTask
from vita.review.guideline import Choice
from vita.spine.errors import DataError
from vita.spine.registry import Registry

if TYPE_CHECKING:
    from vita.infer.engine import Engine

Judge = Callable[[ReviewItem], Choice]

JUDGES: Registry[Judge] = Registry("judge")
"""name -> a rule that chooses between two answers."""


@JUDGES.add("shorter")
def shorter(item: ReviewItem) -> Choice:
    """Choose the shorter answer; an empty answer loses."""
    return _larger([-len(answer.text) if answer.text.strip() else float("-inf") for answer in item.answers])


@JUDGES.add("longer")
def longer(item: ReviewItem) -> Choice:
    """Choose the longer answer: a control, because many judges prefer length."""
    return _larger([len(answer.text) for answer in item.answers])


@JUDGES.add("no_loops")
def no_loops(item: ReviewItem) -> Choice:
    """Choose the answer with less repetition; an answer that does not end loses."""
    scores: list[float] = []
    for answer in item.answers:
        words = answer.text.lower().split()
        scores.append(-repeated_share(words, size=3, least=6) - (answer.finish == "length"))
    return _larger(scores)


class ModelJudge:
    """A chat model that compares both answers, in both orders.

    Its choice is the letter with the higher probability; if the choice depends on the order, it is a tie
    (Zheng et al. 2023, section 3.4).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, item: ReviewItem) -> Choice:
        first = self._prefers_first(item.prompt, item.answers[0].text, item.answers[1].text)
        turned = self._prefers_first(item.prompt, item.answers[1].text, item.answers[0].text)
        return "tie" if first == turned else "a" if first else "b"

    def _prefers_first(self, prompt: Sequence[Message], first: str, second: str) -> bool:
        question = "\n".join(message.content for message in prompt if message.role != "system")
        text = f"{question}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\nWhich answer is better, A or B?"
        prompt_ids = self._engine.chat_ids([Message("user", text)])
        scores = self._engine.score([(prompt_ids, self._engine.tokenizer.encode(letter)) for letter in "AB"])
        return scores[0].logprob >= scores[1].logprob


def vote(desk: ReviewStore, task: ReviewTask, name: str, judge: Judge, *, kind: RaterKind) -> int:
    """Let a judge vote on every item without its vote; returns the number of new votes."""
    if task.kind != "pairwise":
        raise DataError(f"review {task.name}", expected="a pairwise task for a judge", got="a rubric")
    desk.enter(task, name, kind=kind)
    rated = {rating.item for rating in desk.ratings(task) if rating.rater == name}
    items = [item for item in desk.items(task) if item.id not in rated]
    for item in items:
        desk.rate(task, item, name, choice=judge(item), order=(0, 1))
    return len(items)


def _larger(scores: Sequence[float]) -> Choice:
    return "tie" if scores[0] == scores[1] else "a" if scores[0] > scores[1] else "b"
