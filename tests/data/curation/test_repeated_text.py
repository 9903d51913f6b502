"""Repeated paragraphs, lines and runs of words: positions by hand, and equality with a search of plain text."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.data.content import comparable_bytes
from vita.data.curation import repeated_text
from vita.data.curation.deduplication import RepeatedLines, RepeatedParagraphs, RepeatedSubstrings, RepeatOptions
from vita.data.curation.repeat_index import RepeatIndexWriter
from vita.data.curation.repeated_text import DocumentOrder, cut_ranges, find_repeated_text
from vita.data.curation.text_units import plain_words, text_units, word_starts
from vita.data.curation.word_batch import NGrams, WordBatch
from vita.data.records import Document


def shortened(
    folder: Path, parts: list[list[str]], options: RepeatOptions, *, ranks: list[int], complete: tuple[int, ...] = ()
) -> list[str]:
    """Return all documents after the cuts; documents with a negative rank are not in the corpus."""
    paths = [folder / f"{number}.zst" for number in range(len(parts))]
    for path, texts in zip(paths, parts, strict=True):
        writer = RepeatIndexWriter(path, options)
        for text in texts:
            writer.add([Document("", text, "")])
        writer.close()
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    is_complete = np.isin(np.arange(len(ranks)), complete)
    cuts = find_repeated_text(paths, options, DocumentOrder(np.array(ranks), is_complete, starts))
    return [
        cut_ranges(text, [pair for pairs in part_cuts.of(row, text).values() for pair in pairs])
        for part_cuts, texts in zip(cuts, parts, strict=True)
        for row, text in enumerate(texts)
    ]


def plain_search(texts: list[str], ranks: list[int], size: int, max_occurrences: int) -> list[str]:
    """Cut runs of words by a dictionary of all windows."""
    counts: dict[tuple[str, ...], int] = {}
    remaining = {number: text.split() for number, text in enumerate(texts)}
    for number in sorted((number for number, rank in enumerate(ranks) if rank >= 0), key=ranks.__getitem__):
        words = texts[number].split()
        is_cut = [False] * len(words)
        for start in range(len(words) - size + 1):
            window = tuple(words[start : start + size])
            counts[window] = counts.get(window, 0) + 1
            if counts[window] > max_occurrences:
                is_cut[start : start + size] = [True] * size
        remaining[number] = [word for word, cut in zip(words, is_cut, strict=True) if not cut]
    return [" ".join(remaining[number]) for number in range(len(texts))]


def test_units_have_their_text_and_their_range_with_the_separator() -> None:
    text = "\n  One.\ntwo \n \n\nThree."
    assert [tuple(unit) for unit in text_units(text, "lines")] == [
        ("One.", 1, 8),
        ("two", 8, 13),
        ("Three.", 16, 22),
    ]
    assert [tuple(unit) for unit in text_units(text, "paragraphs")] == [("One.\ntwo", 0, 16), ("Three.", 16, 22)]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=" \n\t\u00a0\u3000\u1680\u2003ab.Привет中文กๆé", max_size=40))
def test_the_positions_of_words_match_their_plain_form(text: str) -> None:
    words = plain_words(text, text.encode()).decode().split(" ") if text.strip() else []
    assert [text[start : start + len(word)] for start, word in zip(word_starts(text), words, strict=True)] == words


def test_repeated_units_are_cut_in_the_order_of_the_documents(tmp_path: Path) -> None:
    options = RepeatOptions(RepeatedParagraphs(min_characters=5), RepeatedLines(min_characters=3))
    texts = ["Menu\n\nFirst text.\n\nab", "menu \n\nSecond.\n\nab", "MENU\n\nFirst  TEXT.\nThird."]
    # The last document is the first in order. `ab` is too short. Case and spaces are not compared.
    assert shortened(tmp_path, [texts[:1], texts[1:]], options, ranks=[1, 2, 0]) == [
        "ab",
        "Second.\n\nab",
        "MENU\n\nFirst  TEXT.\nThird.",
    ]


def test_documents_outside_the_corpus_do_not_count_and_complete_ones_stay(tmp_path: Path) -> None:
    options = RepeatOptions(lines=RepeatedLines(min_characters=1))
    parts = [["same line", "same line", "same line\nnew", "same line\nnew"]]
    assert shortened(tmp_path, parts, options, ranks=[-1, 0, 1, 2], complete=(3,)) == [
        "same line",
        "same line",
        "new",
        "same line\nnew",
    ]


def test_the_number_of_occurrences_that_stay_is_an_option(tmp_path: Path) -> None:
    options = RepeatOptions(lines=RepeatedLines(min_characters=1, max_occurrences=2))
    # Lines without letters and digits stay.
    assert shortened(tmp_path, [["x\n--\nx\n--"], ["x\n--\nz"]], options, ranks=[0, 1]) == ["x\n--\nx\n--", "--\nz"]


def test_a_run_of_words_is_cut_at_its_exact_ends(tmp_path: Path) -> None:
    options = RepeatOptions(substrings=RepeatedSubstrings(min_words=5))
    texts = ["p q one two three four five six r", "s one two three four\n five six t", "one two three four T"]
    # Four common words are too few in the third document.
    assert shortened(tmp_path, [texts[:1], texts[1:]], options, ranks=[0, 1, 2]) == [texts[0], "s t", texts[2]]


def test_characters_are_words_in_scripts_without_spaces(tmp_path: Path) -> None:
    options = RepeatOptions(substrings=RepeatedSubstrings(min_words=6))
    parts = [["今天天气非常好。"], ["我说今天天气非常坏。"]]
    assert shortened(tmp_path, parts, options, ranks=[0, 1]) == [parts[0][0], "我说坏。"]


@pytest.fixture
def _few_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the hashes of windows to four values, so that different windows have equal hashes."""
    exact = WordBatch.ngrams

    def ngrams(batch: WordBatch, n: int) -> NGrams:
        grams = exact(batch, n)
        return NGrams(grams.hashes & np.uint64(3) << np.uint64(62), grams.starts)

    monkeypatch.setattr(WordBatch, "ngrams", ngrams)


_CORPORA = st.lists(
    st.lists(st.text(alphabet="ab", min_size=0, max_size=24).map(" ".join), min_size=1, max_size=4),
    min_size=1,
    max_size=3,
)


def check_against_plain_search(parts: list[list[str]], seed: int, max_occurrences: int) -> None:
    texts = [text for part in parts for text in part]
    ranks = np.random.default_rng(seed).permutation(len(texts))
    ranks[seed % len(texts)] = -1
    options = RepeatOptions(substrings=RepeatedSubstrings(min_words=5, max_occurrences=max_occurrences))
    expected = plain_search(texts, ranks.tolist(), 5, max_occurrences)
    with tempfile.TemporaryDirectory() as folder:
        assert shortened(Path(folder), parts, options, ranks=ranks.tolist()) == expected


@settings(max_examples=60, deadline=None)
@given(_CORPORA, st.integers(0, 1000), st.integers(1, 2))
def test_the_search_equals_a_search_of_plain_text(parts: list[list[str]], seed: int, max_occurrences: int) -> None:
    check_against_plain_search(parts, seed, max_occurrences)


@pytest.mark.usefixtures("_few_hashes")
def test_equal_hashes_of_different_windows_and_ranges_of_keys_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_text, "KEYS_AT_ONCE", 8)
    generator = np.random.default_rng(0)
    for seed in range(20):
        parts = [[" ".join(generator.choice(list("ab"), 20)) for _ in range(3)] for _ in range(3)]
        check_against_plain_search(parts, seed, 1 + seed % 2)


def test_lines_of_equal_comparable_form_are_repeats(tmp_path: Path) -> None:
    first, second = "Ｆｕｌｌ width  line", "full WIDTH line"
    assert comparable_bytes(first, first.encode()) == comparable_bytes(second, second.encode())
    options = RepeatOptions(lines=RepeatedLines(min_characters=5))
    assert shortened(tmp_path, [[first, second + "\nrest"]], options, ranks=[0, 1]) == [first, "rest"]
