"""The arrays of a page say what plain counting over its words says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.data.content import normalize_text
from vita.data.curation import page_features as module
from vita.data.curation.page_features import PageFeatures, repeated_share, word_hash
from vita.data.records import Document

TEXTS = st.text(alphabet="abzAZ019-.#é漢ß \n\t", max_size=400)


def page(text: str) -> PageFeatures:
    return PageFeatures(Document("a", text, "test"))


def folded(word: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in word)


@settings(deadline=None)
@given(text=TEXTS)
def test_words_have_the_lengths_letters_and_equalities_of_split(text: str) -> None:
    plain, words = text.split(), page(text).words
    assert words.lengths.tolist() == [len(word) for word in plain]
    assert words.lettered.tolist() == [any(c.isalpha() or ord(c) > 127 for c in word) for word in plain]
    by_hash: dict[int, str] = {}
    for word, hashed in zip(plain, words.hashes.tolist(), strict=True):
        if len(word.encode()) <= 64:
            assert by_hash.setdefault(hashed, folded(word)) == folded(word)
    assert len(by_hash) == len({folded(word) for word in plain if len(word.encode()) <= 64})


@settings(deadline=None)
@given(text=TEXTS, n=st.integers(1, 10))
def test_runs_are_equal_where_their_words_are(text: str, n: int) -> None:
    plain = [folded(word) for word in text.split()]
    runs = [tuple(plain[start : start + n]) for start in range(len(plain) - n + 1)]
    hashes = page(text).runs(n).tolist()
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs))
    assert len(set(zip(hashes, runs, strict=True))) == len(set(runs))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "The quick brown fox, 42 times.\n" * 30
    whole = page(text).words
    monkeypatch.setattr(module, "BLOCK_BYTES", 50)
    cut = page(text).words
    for left, right in zip(whole, cut, strict=True):
        assert left.tolist() == right.tolist()


def test_an_endless_word_ends_the_measuring_all_the_same() -> None:
    assert page("x" * 3 * module.BLOCK_BYTES).characters == 3 * module.BLOCK_BYTES


def test_lines_and_paragraphs_are_without_blank_ones() -> None:
    given = page("\n one \n\n \n\ntwo\nthree\n")
    assert given.lines == ["one", "two", "three"]
    assert given.paragraphs == ["one", "two\nthree"]


def test_case_is_no_difference_between_words() -> None:
    assert word_hash("The") == word_hash("tHe") != word_hash("then")


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("a\0b\x07c\x7f\tä\n", "abc\tä\n"),
        ("\ufeffa", "a"),
        ("a\ud800b", "a\ufffdb"),
        ("a\u2028b\u2029c\x85d\fe\vf", "a\nb\nc\nd\ne\nf"),
        ("unchanged é", "unchanged é"),
    ],
)
def test_mending_makes_plain_lines_and_takes_out_control_characters(text: str, mended: str) -> None:
    result, data = normalize_text(text)
    assert (result, data) == (mended, mended.encode())
    assert normalize_text(result) == (result, data)
    if text == mended:
        assert result is text


def test_repeats_are_counted_after_the_first() -> None:
    assert repeated_share(["aa", "b", "aa", "aa"]) == (0.5, 4 / 7)
    assert repeated_share(["a", "b"]) == (0.0, 0.0)
    assert repeated_share([]) == (0.0, 0.0)
