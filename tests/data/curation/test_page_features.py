"""Page features equal plain counts over the words of a page."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.data.content import normalize_text
from vita.data.curation import page_features as module
from vita.data.curation.page_batch import PageBatch
from vita.data.curation.page_features import PageFeatures, repeated_share, vocabulary_hashes
from vita.data.records import Document

TEXTS = st.text(alphabet="abzAZ019-.#é漢ß \n\t", max_size=400)


def page(text: str) -> PageFeatures:
    return PageFeatures(Document("a", text, "test"))


def lower_ascii(word: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in word)


@settings(deadline=None)
@given(text=TEXTS)
def test_words_equal_those_of_str_split(text: str) -> None:
    expected_words, words = text.split(), page(text).words
    assert words.lengths.tolist() == [len(word) for word in expected_words]
    assert words.lettered.tolist() == [any(c.isalpha() or ord(c) > 127 for c in word) for word in expected_words]
    by_hash: dict[int, str] = {}
    for word, word_id in zip(expected_words, words.hashes.tolist(), strict=True):
        if len(word.encode()) <= 64:
            assert by_hash.setdefault(word_id, lower_ascii(word)) == lower_ascii(word)
    assert len(by_hash) == len({lower_ascii(word) for word in expected_words if len(word.encode()) <= 64})


@settings(deadline=None)
@given(text=TEXTS, n=st.integers(1, 10))
def test_ngram_hashes_are_equal_where_the_words_are(text: str, n: int) -> None:
    words = [lower_ascii(word) for word in text.split()]
    ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    hashes = page(text).runs(n).tolist()
    assert len(hashes) == len(ngrams)
    assert len(set(hashes)) == len(set(ngrams))
    assert len(set(zip(hashes, ngrams, strict=True))) == len(set(ngrams))


def test_block_size_does_not_change_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "The quick brown fox, 42 times.\n" * 30
    words = page(text).words
    monkeypatch.setattr(module, "BLOCK_BYTES", 50)
    block_words = page(text).words
    for array, block_array in zip(words, block_words, strict=True):
        assert array.tolist() == block_array.tolist()


def test_a_word_longer_than_a_block_is_measured() -> None:
    assert page("x" * 3 * module.BLOCK_BYTES).characters == 3 * module.BLOCK_BYTES


def test_blank_lines_and_paragraphs_are_omitted() -> None:
    features = page("\n one \n\n \n\ntwo\nthree\n")
    assert features.lines == ["one", "two", "three"]
    assert features.paragraphs == ["one", "two\nthree"]


def test_hashes_of_words_ignore_case() -> None:
    the, other_case, then = vocabulary_hashes(("The", "tHe", "then"))
    assert the == other_case != then


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("a\0b\x07c\x7f\tä\n", "abc\tä\n"),
        ("\ufeffa", "a"),
        ("a\ud800b", "a\ufffdb"),
        ("a\u2028b\u2029c\x85d\fe\vf", "a\nb\nc\nd\ne\nf"),
        ("unchanged é", "unchanged é"),
    ],
)
def test_normalization_unifies_line_ends_and_removes_control_characters(text: str, normalized: str) -> None:
    result, data = normalize_text(text)
    assert (result, data) == (normalized, normalized.encode())
    assert normalize_text(result) == (result, data)
    if text == normalized:
        assert result is text


def test_repeats_are_counted_after_the_first_occurrence() -> None:
    assert repeated_share(["aa", "b", "aa", "aa"]) == (0.5, 4 / 7)
    assert repeated_share(["a", "b"]) == (0.0, 0.0)
    assert repeated_share([]) == (0.0, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="aB é\n\u3000中1-", max_size=40), min_size=1, max_size=6))
def test_pages_of_a_batch_have_the_features_of_single_pages(texts: list[str]) -> None:
    documents = [(Document(str(number), text, "s"), text.encode()) for number, text in enumerate(texts)]
    batch = PageBatch(documents)
    for index, (document, data) in enumerate(documents):
        page, single = batch.page(index), PageFeatures(document, data)
        for column, expected in zip(page.words, single.words, strict=True):
            assert np.array_equal(column, expected)
        for n in (2, 3, 5):
            assert np.array_equal(page.runs(n), single.runs(n))
            assert np.array_equal(page.run_lengths(n), single.run_lengths(n))
        assert page.characters == single.characters == page.words.lengths.sum()
        assert page.lettered_words == single.lettered_words == page.words.lettered.sum()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab \n", max_size=60), min_size=1, max_size=5), st.sampled_from([0.0, 0.3, 0.6]))
def test_frequent_and_repeated_runs_equal_plain_counts(texts: list[str], limit: float) -> None:
    batch = PageBatch([(Document(str(number), text, "s"), text.encode()) for number, text in enumerate(texts)])
    for index, text in enumerate(texts):
        words = text.split()
        characters = sum(map(len, words))
        bigrams = Counter(itertools.pairwise(words))
        highest = max(bigrams.values(), default=0)
        longest = max((len(a + b) for (a, b), count in bigrams.items() if count == highest), default=0)
        fivegrams = Counter(tuple(words[start : start + 5]) for start in range(len(words) - 4))
        repeated = sum((count - 1) * sum(map(len, fivegram)) for fivegram, count in fivegrams.items())
        for page in (batch.page(index), PageFeatures(batch.documents[index][0])):
            assert page.has_frequent_runs((limit,)) == (highest > 1 and highest * longest / characters > limit)
            assert page.may_have_repeated_runs(5, limit) == (repeated > limit * characters)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="a.é\n \u3000中", max_size=30), min_size=1, max_size=5))
def test_a_batch_counts_lines_and_bytes_of_each_document(texts: list[str]) -> None:
    batch = PageBatch([(Document(str(number), text, "s"), text.encode()) for number, text in enumerate(texts)])
    lines = [batch.page(index).lines for index in range(len(texts))]
    assert batch.lines.counts.tolist() == list(map(len, lines))
    firsts, lasts = batch.word_starts[batch.lines.first_words], batch.word_stops[batch.lines.last_words]
    measured = [batch.data[first:last] for first, last in zip(firsts, lasts, strict=True)]
    plain = [line.encode() for document_lines in lines for line in document_lines]
    assert measured == [line.replace("\u3000".encode(), b"   ") for line in plain]
    assert batch.count_byte(ord(".")).tolist() == [text.count(".") for text in texts]
    assert batch.may_have_unspaced.tolist() == ["中" in text for text in texts]
