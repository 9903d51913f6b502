"""Why a dialogue or a preference is of no use although its row is well formed; each reason has a count of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vita.data.records import Message


@dataclass(frozen=True)
class Flaw:
    """Why there is nothing to learn from a row; `reason` is what drops are counted by."""

    reason: str
    detail: str


def answer_flaw(messages: Sequence[Message], *, ends: bool = False) -> Flaw | None:
    """What is wrong with the answers among messages, if anything.

    An empty answer would teach the model to say nothing. With `ends` the last message has to be the assistant's.
    """
    answers = [message for message in messages if message.role == "assistant"]
    if not answers or (ends and messages[-1].role != "assistant"):
        return Flaw("no_answer", "there is no answer of the assistant" + (" at the end" if ends and answers else ""))
    if any(message.learned and not message.content.strip() for message in answers):
        return Flaw("no_answer", "an answer is empty")
    if not any(message.learned for message in answers):
        return Flaw("not_learned", "every answer is marked with weight 0")
    return None
