"""Streamed text is the whole text, cut at no character and showing nothing of a stop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vita.infer.detokenizer import TextStream


def streamed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    texts = []
    for piece in pieces:
        texts.append(stream.push(piece))
        if stream.stopped:
            break
    texts.append(stream.finish())
    return texts, stream.stopped


def test_a_character_comes_whole() -> None:
    snowman = "☃".encode()
    assert streamed([b"a", snowman[:1], snowman[1:2], snowman[2:], b"b"]) == (["a", "", "", "☃", "b", ""], False)


def test_a_character_that_is_never_finished_is_marked() -> None:
    assert streamed([b"a", "☃".encode()[:2]]) == (["a", "", "�"], False)


def test_a_stop_across_tokens_is_not_shown() -> None:
    texts, stopped = streamed([b"one", b" En", b"d of", b" it"], stop=("End",))
    assert texts == ["one", " ", "", ""]
    assert stopped


def test_what_only_began_like_a_stop_is_given_after_all() -> None:
    assert streamed([b"En", b"tire"], stop=("End",)) == (["", "Entire", ""], False)
    assert streamed([b"the En"], stop=("End",)) == (["the ", "En"], False)


def test_the_stop_that_ends_first_counts() -> None:
    assert "".join(streamed([b"xab", b"c"], stop=("abc", "b"))[0]) == "xa"
    assert "".join(streamed([b"xabc"], stop=("abc", "b"))[0]) == "xa"
    assert "".join(streamed([b"xab"], stop=("b", "ab"))[0]) == "x"


@given(
    st.text(alphabet="ab☃é\n", max_size=30),
    st.lists(st.text(alphabet="ab☃", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 4), max_size=60),
)
def test_the_law_of_streaming(text: str, stop: list[str], cuts: list[int]) -> None:
    data, pieces = text.encode(), []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    texts, stopped = streamed([*pieces, data], stop=tuple(stop))
    ends = [(text.find(one) + len(one), text.find(one)) for one in stop if one in text]
    assert "".join(texts) == (text[: min(ends)[1]] if ends else text)
    assert stopped == bool(ends)
    assert not any("�" in piece for piece in texts)
