"""Streamed text equals the complete text, contains only complete characters, and omits stop texts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vita.infer.detokenizer import TextStream


def stream_pieces(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    texts = []
    for piece in pieces:
        texts.append(stream.push(piece))
        if stream.stopped:
            break
    texts.append(stream.finish())
    return texts, stream.stopped


def test_a_character_is_streamed_when_it_is_complete() -> None:
    snowman = "☃".encode()
    assert stream_pieces([b"a", snowman[:1], snowman[1:2], snowman[2:], b"b"]) == (["a", "", "", "☃", "b", ""], False)


def test_an_incomplete_character_becomes_a_replacement_character() -> None:
    assert stream_pieces([b"a", "☃".encode()[:2]]) == (["a", "", "�"], False)


def test_a_stop_text_across_tokens_is_omitted() -> None:
    texts, stopped = stream_pieces([b"one", b" En", b"d of", b" it"], stop=("End",))
    assert texts == ["one", " ", "", ""]
    assert stopped


def test_a_partial_stop_text_is_streamed_later() -> None:
    assert stream_pieces([b"En", b"tire"], stop=("End",)) == (["", "Entire", ""], False)
    assert stream_pieces([b"the En"], stop=("End",)) == (["the ", "En"], False)


def test_the_stop_text_that_ends_first_is_used() -> None:
    assert "".join(stream_pieces([b"xab", b"c"], stop=("abc", "b"))[0]) == "xa"
    assert "".join(stream_pieces([b"xabc"], stop=("abc", "b"))[0]) == "xa"
    assert "".join(stream_pieces([b"xab"], stop=("b", "ab"))[0]) == "x"


@given(
    st.text(alphabet="ab☃é\n", max_size=30),
    st.lists(st.text(alphabet="ab☃", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 4), max_size=60),
)
def test_streamed_pieces_equal_the_text_up_to_the_first_stop(
    text: str, stop: list[str], piece_sizes: list[int]
) -> None:
    data, pieces = text.encode(), []
    for piece_size in piece_sizes:
        pieces.append(data[:piece_size])
        data = data[piece_size:]
    texts, stopped = stream_pieces([*pieces, data], stop=tuple(stop))
    stop_positions = [
        (text.find(stop_text) + len(stop_text), text.find(stop_text)) for stop_text in stop if stop_text in text
    ]
    assert "".join(texts) == (text[: min(stop_positions)[1]] if stop_positions else text)
    assert stopped == bool(stop_positions)
    assert not any("�" in piece for piece in texts)
