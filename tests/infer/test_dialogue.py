"""Fitting a dialogue into a context: complete turns are dropped, oldest first, and system messages are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.data.records import Message
from vita.infer.dialogue import DialogueTooLong, dropped_notice, fit_dialogue

SYSTEM = Message("system", "be kind")


def _encode(messages: Sequence[Message]) -> list[int]:
    """Encode one token per character and three for the frame of each message."""
    return [0] * sum(len(message.content) + 3 for message in messages)


def _dialogue(*lengths: int) -> list[Message]:
    """Return alternating questions and answers of the given lengths."""
    return [Message("user" if index % 2 == 0 else "assistant", "x" * length) for index, length in enumerate(lengths)]


def test_a_dialogue_that_fits_is_not_changed() -> None:
    messages = [SYSTEM, *_dialogue(5, 5, 5)]
    fitted = fit_dialogue(messages, encode=_encode, context=64, answer_tokens=16)
    assert (fitted.messages, fitted.dropped) == (messages, 0)


def test_the_oldest_question_and_answer_are_dropped_together() -> None:
    messages = [SYSTEM, *_dialogue(5, 5, 6, 6, 7)]
    fitted = fit_dialogue(messages, encode=_encode, context=64, answer_tokens=24)  # 40 tokens of prompt, 59 are needed
    assert fitted.messages == [SYSTEM, *messages[3:]]
    assert fitted.dropped == 2 and len(fitted.ids) == 38
    assert dropped_notice(fitted.dropped) == "the context is full: the oldest 2 messages were dropped from the dialogue"


def test_at_most_half_of_the_context_is_reserved_for_the_answer() -> None:
    fitted = fit_dialogue(_dialogue(5, 5, 5), encode=_encode, context=64, answer_tokens=1000)
    assert fitted.dropped == 0, "24 tokens fit into the other half"
    assert fit_dialogue(_dialogue(9, 9, 9), encode=_encode, context=64, answer_tokens=None).dropped == 2


def test_a_last_message_longer_than_the_rest_of_the_context_shortens_the_answer() -> None:
    fitted = fit_dialogue(_dialogue(5, 5, 50), encode=_encode, context=64, answer_tokens=32)
    assert len(fitted.messages) == 1 and len(fitted.ids) == 53


def test_a_message_longer_than_the_context_is_refused_with_both_sizes() -> None:
    with pytest.raises(DialogueTooLong, match="expected at most 63 tokens with its template, got 103"):
        fit_dialogue(_dialogue(5, 5, 100), encode=_encode, context=64, answer_tokens=8)


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.integers(0, 30)), min_size=1, max_size=40),
    st.booleans(), st.integers(8, 128), st.integers(1, 64),
)  # fmt: skip
def test_the_longest_suffix_of_complete_turns_that_fits_is_kept(
    turns: list[tuple[Literal["user", "assistant"], int]], with_system: bool, context: int, answer_tokens: int
) -> None:
    dialogue = [Message(role, "x" * length) for role, length in turns]
    messages = [SYSTEM, *dialogue] if with_system else dialogue
    last_question = next((i for i in range(len(dialogue) - 1, -1, -1) if dialogue[i].role == "user"), 0)
    if len(_encode([*messages[:with_system], *dialogue[last_question:]])) >= context:
        with pytest.raises(DialogueTooLong):
            fit_dialogue(messages, encode=_encode, context=context, answer_tokens=answer_tokens)
        return
    fitted = fit_dialogue(messages, encode=_encode, context=context, answer_tokens=answer_tokens)
    assert len(fitted.ids) < context and fitted.ids == _encode(fitted.messages)
    assert fitted.dropped == len(messages) - len(fitted.messages)
    start = len(dialogue) - (len(fitted.messages) - with_system)
    assert fitted.messages[with_system:] == dialogue[start:] and (not with_system or fitted.messages[0] == SYSTEM)
    assert not fitted.dropped or dialogue[start].role == "user", (
        "a dialogue never begins with an answer to a lost question"
    )
    if fitted.dropped:
        earlier = max(i for i in range(start) if i == 0 or dialogue[i].role == "user")
        limit = context - min(answer_tokens, context // 2)
        assert len(_encode([*messages[:with_system], *dialogue[earlier:]])) > limit, "no turn is dropped without need"


def test_thousands_of_turns_are_rendered_a_few_times() -> None:
    calls = 0

    def encode(messages: Sequence[Message]) -> list[int]:
        nonlocal calls
        calls += 1
        return _encode(messages)

    fitted = fit_dialogue(_dialogue(*[5] * 4001), encode=encode, context=4096, answer_tokens=64)
    assert fitted.dropped and calls < 20
