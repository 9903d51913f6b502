"""Decontamination: passages of benchmarks are found with their coverage, and common phrases are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vita.data.content import comparable_bytes, normalize_text
from vita.data.curation.decontamination import BenchmarkIndex, Decontamination
from vita.data.curation.word_batch import WordBatch
from vita.spine.config import build
from vita.spine.errors import DataError

QUESTION = " ".join(f"word{number}" for number in range(20))


def index(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> BenchmarkIndex:
    path = folder / "benchmark.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmarks = {"quiz": {"path": str(path), "fields": settings.pop("fields", ())}}
    values = {"benchmarks": benchmarks, **settings}
    built = BenchmarkIndex.build(build(Decontamination, values, where="decontaminate"), where="decontaminate")
    loaded = built.save(folder / "index.npz").load()
    assert loaded.names == built.names and len(loaded.hashes) == len(built.hashes)
    return built


def search(benchmarks: BenchmarkIndex, *texts: str) -> dict[int, list[tuple[str, int, float]]]:
    batch = WordBatch.of([comparable_bytes(*normalize_text(text)) for text in texts])
    return {
        document: [(match.benchmark, match.item, round(match.coverage, 4)) for match in matches]
        for document, matches in benchmarks.search(batch).items()
    }


def replace_word(text: str, position: int) -> str:
    words = text.split()
    return " ".join([*words[:position], "other", *words[position + 1 :]])


def test_the_coverage_is_the_share_of_words_in_common_ngrams(tmp_path: Path) -> None:
    benchmarks = index(tmp_path, [{"id": "a", "question": "Other."}, {"id": "b", "question": QUESTION}])
    assert search(benchmarks, f"Before. {QUESTION.upper()}! After.") == {0: [("quiz", 2, 1.0)]}
    # with the 19th word replaced, words 1 to 18 are in common 8-grams: 18 of 20
    assert search(benchmarks, replace_word(QUESTION, 18)) == {0: [("quiz", 2, 0.9)]}
    # with the 7th word replaced, the words 1 to 6 are too few for an 8-gram, and 8 to 20 are 13 words
    assert search(benchmarks, replace_word(QUESTION, 6)) == {0: [("quiz", 2, 0.65)]}
    # with the 8th word replaced, 12 words are left, under `min_words`
    assert search(benchmarks, replace_word(QUESTION, 7)) == {}


def test_an_ngram_does_not_extend_over_two_documents(tmp_path: Path) -> None:
    benchmarks = index(tmp_path, [{"question": QUESTION}])
    words = QUESTION.split()
    halves = [" ".join(words[start : start + 7]) for start in (0, 7, 13)]
    assert search(benchmarks, *halves) == {}
    assert search(benchmarks, "First.", QUESTION, "Last.") == {1: [("quiz", 1, 1.0)]}


def test_a_passage_below_the_minimum_words_must_be_covered_completely(tmp_path: Path) -> None:
    ten_words = " ".join(QUESTION.split()[:10])
    benchmarks = index(tmp_path, [{"question": ten_words, "answer": "Too short to be compared."}])
    assert benchmarks.counts[0].passages == 2 and benchmarks.counts[0].short_passages == 1
    assert search(benchmarks, f"So: {ten_words}.") == {0: [("quiz", 1, 1.0)]}
    assert search(benchmarks, replace_word(ten_words, 9), "Too short to be compared.") == {}


def test_all_texts_of_a_row_are_passages_unless_fields_are_set(tmp_path: Path) -> None:
    context = QUESTION.replace("word", "context")
    rows = [{"question": QUESTION, "options": [{"text": context}, 5]}]
    assert search(index(tmp_path, rows), context, QUESTION).keys() == {0, 1}
    assert search(index(tmp_path, rows, fields=["question"]), context, QUESTION).keys() == {1}
    with pytest.raises(DataError, match=r"benchmark.jsonl, row 1: expected a field `answer`, got question, options"):
        index(tmp_path, rows, fields=["answer"])


def test_text_without_spaces_is_compared_by_characters(tmp_path: Path) -> None:
    passage = "我们在这里写一段没有空格的中文文字"
    assert search(index(tmp_path, [{"question": passage}]), f"前面。{passage}。后面") == {0: [("quiz", 1, 1.0)]}
