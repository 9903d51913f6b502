"""Behind a guard nothing of an answer goes out before the guard has seen what follows it, in whatever form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vita.infer.content_filter import ContentFilter
from vita.infer.detokenizer import TextStream
from vita.infer.request import TokenEvent, TokenScore
from vita.server.replica.responses import HOLD, ChoiceDelta, ResponseChoice
from vita.testing import byte_tokenizer

LONG = "a cat sat on the mat and looked out of the window, and then it said "


def told(
    answer: str, *, guard: ContentFilter | None, stop: tuple[str, ...] = ()
) -> Iterator[tuple[ResponseChoice, ChoiceDelta]]:
    """What goes out of an answer whose tokens are bytes, as it grows."""
    choice, stream = ResponseChoice(0, byte_tokenizer(), guard), TextStream(stop)
    data = answer.encode()
    for place, token in enumerate(data):
        last = place == len(data) - 1
        text = stream.push(bytes([token])) + (stream.finish() if last else "")
        choice.take(TokenEvent(0.0, 0, TokenScore(token, -1.0), text, "stop" if last else None))
        if (fresh := choice.take_delta()) is not None:
            yield choice, fresh
        if choice.finish:
            return


@pytest.mark.parametrize("stop", [(), ("and looked",)])
@pytest.mark.parametrize("answer", [LONG * 6, "Käse ☃ 🐈 " * 40])
def test_the_tokens_told_never_run_ahead_of_the_text(answer: str, stop: tuple[str, ...]) -> None:
    text, tokens = "", b""
    for choice, fresh in told(answer, guard=ContentFilter(output_words=("poison",)), stop=stop):
        text += fresh.text
        tokens += bytes(score.id for score in fresh.scores)
        if not choice.finish:
            assert text.encode().startswith(tokens), "no byte of what is held back"
    assert text == (answer.partition(stop[0])[0] if stop else answer)
    assert tokens == answer.encode()


def test_what_a_guard_refuses_was_told_neither_as_text_nor_as_tokens() -> None:
    parts = [fresh for _, fresh in told(LONG * 3 + "poison " + LONG, guard=ContentFilter(output_words=("poison",)))]
    tokens = bytes(score.id for fresh in parts for score in fresh.scores).decode()
    assert parts[-1].finish == "content_filter"
    assert len(tokens) <= len(LONG) * 3 + len("poison ") + 32 - HOLD and "poison" not in tokens


def test_without_a_guard_each_token_goes_out_with_its_text() -> None:
    assert [(fresh.text, len(fresh.scores)) for _, fresh in told("abc", guard=None)] == [("a", 1), ("b", 1), ("c", 1)]
