"""With a content filter, no text or token is sent before the filter has checked the text that follows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vita.infer.content_filter import ContentFilter
from vita.infer.detokenizer import TextStream
from vita.infer.request import TokenEvent, TokenScore
from vita.server.replica.responses import HOLD, ChoiceDelta, ResponseChoice
from vita.testing import byte_tokenizer

LONG_TEXT = "a cat sat on the mat and looked out of the window, and then it said "


def stream_deltas(
    answer: str, *, guard: ContentFilter | None, stop: tuple[str, ...] = ()
) -> Iterator[tuple[ResponseChoice, ChoiceDelta]]:
    """Yield the deltas of an answer whose tokens are bytes."""
    choice, stream = ResponseChoice(0, byte_tokenizer(), guard), TextStream(stop)
    data = answer.encode()
    for index, token in enumerate(data):
        is_last = index == len(data) - 1
        text = stream.push(bytes([token])) + (stream.finish() if is_last else "")
        choice.take(TokenEvent(0.0, 0, TokenScore(token, -1.0), text, "stop" if is_last else None))
        if (delta := choice.take_delta()) is not None:
            yield choice, delta
        if choice.finish:
            return


@pytest.mark.parametrize("stop", [(), ("and looked",)])
@pytest.mark.parametrize("answer", [LONG_TEXT * 6, "Käse ☃ 🐈 " * 40])
def test_tokens_are_never_sent_before_their_text(answer: str, stop: tuple[str, ...]) -> None:
    text, tokens = "", b""
    for choice, delta in stream_deltas(answer, guard=ContentFilter(output_words=("poison",)), stop=stop):
        text += delta.text
        tokens += bytes(score.id for score in delta.scores)
        if not choice.finish:
            assert text.encode().startswith(tokens), "no byte of the text that is held back"
    assert text == (answer.partition(stop[0])[0] if stop else answer)
    assert tokens == answer.encode()


def test_filtered_text_is_sent_neither_as_text_nor_as_tokens() -> None:
    deltas = [
        delta
        for _, delta in stream_deltas(
            LONG_TEXT * 3 + "poison " + LONG_TEXT, guard=ContentFilter(output_words=("poison",))
        )
    ]
    tokens = bytes(score.id for delta in deltas for score in delta.scores).decode()
    assert deltas[-1].finish == "content_filter"
    assert len(tokens) <= len(LONG_TEXT) * 3 + len("poison ") + 32 - HOLD and "poison" not in tokens


def test_without_a_content_filter_each_token_is_sent_with_its_text() -> None:
    assert [(delta.text, len(delta.scores)) for _, delta in stream_deltas("abc", guard=None)] == [
        ("a", 1),
        ("b", 1),
        ("c", 1),
    ]
