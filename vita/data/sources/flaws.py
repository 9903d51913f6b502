"""Reasons to drop a dialogue or preference although its row is well formed; drops are counted by reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vita.data.records import Message


@dataclass(frozen=True)
class Flaw:
    """The reason why nothing can be learned from a row; drops are counted by `reason`."""

    reason: str
    detail: str


def answer_flaw(messages: Sequence[Message], *, at_end: bool = False) -> Flaw | None:
    """Return the flaw of the assistant's answers among messages, or None.

    An empty answer would teach the model to generate nothing. With `at_end` the last message must be an answer.
    """
    answers = [message for message in messages if message.role == "assistant"]
    if not answers or (at_end and messages[-1].role != "assistant"):
        return Flaw("no_answer", "there is no answer of the assistant" + (" at the end" if at_end and answers else ""))
    if any(message.learned and not message.content.strip() and not message.tool_calls for message in answers):
        return Flaw("no_answer", "an answer is empty")
    if not any(message.learned for message in answers):
        return Flaw("not_learned", "every answer is marked with weight 0")
    return None
