"""The protocol of `bench.few_labels`: accuracies per sentence over divisions, and paired differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.few_labels import difference, divisions, sentence_accuracies, standardized, word_accuracies
from bench.opinion_text import grams, review, separated, write_spans


class FirstLabel:
    """Predict the first learned label."""

    def fit(self, features: Any, targets: Any) -> FirstLabel:
        self.label = targets[0]
        return self

    def predict(self, features: Any) -> Any:
        return np.full(len(features), self.label)


def test_the_accuracy_of_a_sentence_is_the_mean_over_the_divisions_that_test_it() -> None:
    targets = np.array([0, 1, 1])
    parts = [(np.array([0]), np.array([1, 2])), (np.array([1]), np.array([0, 2]))]
    accuracies = sentence_accuracies(FirstLabel(), np.zeros((3, 1)), targets, parts)
    assert accuracies.tolist() == [0.0, 0.0, 0.5]
    change = difference(accuracies, np.array([0.0, 0.0, 0.2]))
    assert change["value"] == 10.0 and change["low"] == 0.0 < change["high"]


@pytest.mark.slow
def test_divisions_are_stratified_and_words_are_learned() -> None:
    pytest.importorskip("sklearn")
    targets = np.array([0, 1] * 20)
    parts = divisions(targets, labels=10, count=20)
    assert all(len(learned) == 10 and targets[learned].sum() == 5 for learned, _ in parts)
    with pytest.raises(ValueError, match="sentences are tested in no division"):
        sentence_accuracies(FirstLabel(), np.zeros((40, 1)), targets, parts[:1])
    sentences = [f"word{number} {('bad', 'good')[target]}" for number, target in enumerate(targets)]
    assert all(accuracies.min() == 1.0 for accuracies in word_accuracies(sentences, targets, parts).values())
    vectors = standardized(np.array([[1.0, 0.0], [3.0, 4.0]]))
    assert np.allclose(vectors, [[-1 / 5**0.5, -2 / 5**0.5], [1 / 5**0.5, 2 / 5**0.5]])


def test_reviews_lose_their_questions_and_answers_and_test_sentences_are_recognized() -> None:
    row = {"prompt": "Title: Fine\nReview: It doesn't break.\nIs it positive?", "completion": "Yes"}
    assert review("amazon_polarity_Is_this_review", row) == "Fine . It doesn't break."
    assert separated("It doesn't break; it's FINE.") == "it does n't break ; it 's fine ."
    assert grams("a b c d e f g h i") == {"a b c d e f g h", "b c d e f g h i"} and not grams("a b c d e f g")


def test_pairs_are_neighbouring_spans_of_one_text(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(30)]
    (tmp_path / "reviews.jsonl").write_text(json.dumps({"text": " ".join(words)}) + "\n")
    (tmp_path / "web.jsonl").write_text(json.dumps({"text": "too short"}) + "\n")
    write_spans(tmp_path, count=100)
    pairs = [json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()]
    assert 3 <= len(pairs) <= 5
    assert all(f"{pair['anchor']} {pair['positive']}" in " ".join(words) for pair in pairs)
    assert all(5 <= len(pair["anchor"].split()) <= 9 for pair in pairs)
