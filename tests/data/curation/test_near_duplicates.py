"""Near duplicates: shingles and their Jaccard index by hand, and every pair over the threshold is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vita.data.content import comparable_bytes, normalize_text
from vita.data.curation.near_duplicates import Sketches, find_near_duplicates, jaccard_index, save_sketches
from vita.data.curation.shingles import rows_per_band, shingle_sets, signatures
from vita.data.curation.word_batch import WordBatch


def comparable(text: str) -> bytes:
    return comparable_bytes(*normalize_text(text))


def shingles_of(text: str, size: int = 2) -> np.ndarray:
    return shingle_sets(WordBatch.of([comparable(text)]), size=size).hashes


def plain_jaccard(first: str, second: str, size: int = 5) -> float:
    first_set, second_set = (
        {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}
        for words in (first.split(), second.split())
    )
    return len(first_set & second_set) / len(first_set | second_set)


def search(folder: Path, texts: list[str], *, parts: int = 1, threshold: float = 0.7) -> tuple[list[int], list[float]]:
    paths = []
    for number, indices in enumerate(np.array_split(np.arange(len(texts)), parts)):
        paths.append(folder / f"{number}.zst")
        batch = shingle_sets(WordBatch.of([comparable(texts[index]) for index in indices]), size=5)
        save_sketches(paths[-1], batch, rows=rows_per_band(threshold))
    result = find_near_duplicates(Sketches(paths), np.arange(len(texts)), threshold=threshold)
    return result.copy_of.tolist(), result.jaccard.tolist()


def test_the_jaccard_index_of_pairs_of_words() -> None:
    # {a b, b c, c d} and {a b, b c, c e} have 2 of 4 pairs in common
    assert jaccard_index(shingles_of("a b c d"), shingles_of("a b c e")) == 0.5
    assert len(shingles_of("a b a b a")) == 2  # a b, b a


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("The end, he said.", "the END he   said"),
        ("“Straße” – schön…", "strasse schön"),
        ("snake_case, x-y", "snake case x y"),
        ("中文没有空格", "中 文 没 有 空 格"),
        ("Привет, Мир!", "привет мир"),
    ],
)
def test_case_punctuation_and_spaces_are_not_compared(text: str, other: str) -> None:
    assert len(shingles_of(text)) and np.array_equal(shingles_of(text), shingles_of(other))


def test_a_shingle_does_not_extend_over_two_documents() -> None:
    together = shingle_sets(WordBatch.of([b"a b c", b"", b"d e", b"f"]), size=2)
    assert together.counts.tolist() == [2, 0, 1, 0]
    assert np.array_equal(together.hashes, np.concatenate([shingles_of("a b c"), shingles_of("d e")]))


def test_the_signature_has_no_empty_bin_unless_the_document_has_no_shingle() -> None:
    values = signatures(shingle_sets(WordBatch.of([b"a b c", b"", b"d"]), size=2))
    assert len(np.unique(values[0])) == 2 and len(np.unique(values[1:])) == 1


def test_pairs_share_a_band_with_the_stated_probability() -> None:
    assert rows_per_band(0.7) == 5 and 1 - (1 - 0.7**5) ** 51 > 0.9999 > 1 - (1 - 0.7**6) ** 42


def edited(words: list[str], share: float, random: np.random.Generator) -> list[str]:
    changed = random.random(len(words)) < share
    return [f"new{random.integers(10**6)}" if change else word for word, change in zip(words, changed, strict=True)]


def test_every_pair_over_the_threshold_is_found_and_no_other(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = []
    for length in [12, 30, 60, 150, 400] * 40:
        words = [f"w{word}" for word in random.integers(0, 3000, length)]
        texts += [" ".join(words), " ".join(edited(words, random.uniform(0, 0.09), random))]
    copy_of, jaccard = search(tmp_path, texts, parts=3)
    truth = [plain_jaccard(texts[index - 1], texts[index]) for index in range(1, len(texts), 2)]
    assert sum(0.7 <= value < 1 for value in truth) > 40 and sum(value < 0.7 for value in truth) > 40
    assert copy_of[0::2] == list(range(0, len(texts), 2))
    for index, value in zip(range(1, len(texts), 2), truth, strict=True):
        assert copy_of[index] == (index - 1 if value >= 0.7 else index)
        assert value < 0.7 or jaccard[index] == pytest.approx(value)


def test_a_chain_of_changes_is_compared_with_documents_that_stay(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(100)]
    shift = [" ".join(words[start : start + 64]) for start in (0, 10, 20)]  # 60 shingles each, 50 in common: 50/70
    copy_of, jaccard = search(tmp_path, shift)
    assert copy_of == [0, 0, 2]  # the third repeats only the second, which is dropped: 40/80 with the first
    assert jaccard[1] == pytest.approx(50 / 70)


def test_texts_without_words_are_no_duplicates(tmp_path: Path) -> None:
    assert search(tmp_path, ["---", "***", "one two", "one two"])[0] == [0, 1, 2, 3]
