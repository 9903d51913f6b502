"""Fit a dialogue into a model's context by dropping its oldest turns.

    fitted = fit_dialogue(messages, encode=engine.chat_ids, context=2048, answer_tokens=256)
    fitted.ids, fitted.dropped

The rule, shared by `vita chat`, the chat page and `truncation: "auto"` of the API:

1. Room is reserved for the answer: the requested maximum length, at most half of the context.
2. Leading system messages always stay. The rest is a sequence of turns; a turn is a user message and all that follows
   it up to the next user message.
3. Complete turns are dropped, oldest first, until the rendered prompt fits. The last turn always stays.
4. If the last turn alone does not fit, the reserved room may shrink to one token; after that, `DialogueTooLong`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vita.data.records import Message
from vita.spine.errors import DataError

Encode = Callable[[Sequence[Message]], list[int]]


class DialogueTooLong(DataError):
    """The system messages and the last turn alone exceed the context."""

    def __init__(self, tokens: int, context: int) -> None:
        self.tokens, self.context = tokens, context
        super().__init__("message", expected=f"at most {context - 1} tokens with its template", got=tokens)


@dataclass(frozen=True)
class FittedDialogue:
    """A dialogue that fits, the prompt for the next answer, and the number of messages that were dropped."""

    messages: list[Message]
    ids: list[int]
    dropped: int


def fit_dialogue(
    messages: Sequence[Message], *, encode: Encode, context: int, answer_tokens: int | None
) -> FittedDialogue:
    """Drop the fewest oldest turns so that prompt and answer fit; `answer_tokens` None reserves half of the context."""
    half = max(1, context // 2)
    limit = context - min(half if answer_tokens is None else answer_tokens, half)
    system, turns = split_turns(messages)
    fitted = _dropped_to(limit, system, turns, encode)
    if fitted is None:
        last = [*system, *turns[-1]] if turns else system
        ids = encode(last)
        if len(ids) >= context:
            raise DialogueTooLong(len(ids), context)
        fitted = FittedDialogue(last, ids, len(messages) - len(last))
    return fitted


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Return the leading system messages and the turns, each from a user message to the next."""
    start = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    turns: list[list[Message]] = []
    for message in messages[start:]:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:start]), turns


def recent_turns(messages: Sequence[Message], *, characters: int) -> list[Message]:
    """Return the system messages and the last turns with at most this many characters; the last turn always stays.

    It bounds the text that has to be rendered: a longer text cannot fit, however it is tokenized.
    """
    system, turns = split_turns(messages)
    start, total = len(turns), 0
    while start:
        total += sum(len(message.content) for message in turns[start - 1])
        if total > characters and start < len(turns):
            break
        start -= 1
    return [*system, *(message for turn in turns[start:] for message in turn)]


def _dropped_to(limit: int, system: list[Message], turns: list[list[Message]], encode: Encode) -> FittedDialogue | None:
    """Return the longest suffix of the dialogue with at most `limit` tokens; None if the last turn is longer.

    A binary search renders a dialogue of thousands of turns about a dozen times.
    """
    best: FittedDialogue | None = None
    low, high = 0, max(0, len(turns) - 1)  # turns dropped
    drop = 0  # the usual case first: the whole dialogue fits
    while low <= high:
        rest = [message for turn in turns[drop:] for message in turn]
        ids = encode([*system, *rest])
        if len(ids) <= limit:
            best = FittedDialogue([*system, *rest], ids, sum(map(len, turns[:drop])))
            high = drop - 1
        else:
            low = drop + 1
        drop = (low + high) // 2
    return best


def dropped_notice(messages: int) -> str:
    """Return the notice for the user."""
    number = "message was" if messages == 1 else f"{messages} messages were"
    return f"the context is full: the oldest {number} dropped from the dialogue"
