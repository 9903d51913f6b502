"""The classifier of text quality: features and weights by hand, its file, and its use as a filter."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize

from vita.data.curation.classifier_examples import labelled_examples, reference_examples
from vita.data.curation.classifier_training import INVERSE_PENALTY, cross_validated_scores, train_classifier
from vita.data.curation.filters import FilterChain, FilterUse
from vita.data.curation.page_features import PageFeatures
from vita.data.curation.text_classifier import TextClassifier, comparable_texts, logistic, text_features
from vita.data.records import Document
from vita.data.sources.read import Source
from vita.spine.config import input_paths
from vita.spine.errors import ConfigError, DataError

GOOD = [f"The theorem number {number} is proved with care." for number in range(12)]
BAD = [f"Buy cheap pills number {number} now!" for number in range(12)]
LABELS = np.array([True] * 12 + [False] * 12)


def write_labels(path: Path, field: str = "label", values: tuple[object, object] = (1, 0)) -> Source:
    rows = [(text, values[0]) for text in GOOD] + [(text, values[1]) for text in BAD]
    path.write_text("".join(json.dumps({"text": text, field: value}) + "\n" for text, value in rows))
    return Source(path=str(path))  # type: ignore[arg-type]


def trained() -> TextClassifier:
    return train_classifier(text_features(comparable_texts(GOOD + BAD)), LABELS, {"documents": 24})


def test_features_are_the_counts_of_words_and_pairs_with_unit_length() -> None:
    features = text_features(comparable_texts(["A b, a", "", "B"]))
    # Words a (twice) and b, and the pairs `a b` and `b a`; 1 + ln(2) for the word that occurs twice.
    length = math.sqrt((1 + math.log(2)) ** 2 + 3)
    assert features.rows.tolist() == [0, 0, 0, 0, 2]
    assert sorted(features.values[:4]) == pytest.approx([1 / length] * 3 + [(1 + math.log(2)) / length])
    # The word `b` has the same column in both documents.
    assert features.columns[4] in features.columns[:4] and features.values[4] == 1


def test_the_weights_minimize_the_loss_as_another_optimizer_finds_it() -> None:
    good, bad = GOOD[:4], BAD[:9]
    features = text_features(comparable_texts(good + bad))
    is_good = np.array([True] * 4 + [False] * 9)
    columns = np.unique(features.columns)
    dense = np.zeros((13, len(columns)))
    dense[features.rows, np.searchsorted(columns, features.columns)] = features.values
    importance = np.where(is_good, 0.5 / 4, 0.5 / 9)

    def loss(weights: np.ndarray) -> float:
        values = dense @ weights[:-1] + weights[-1]
        signs = np.where(is_good, 1, -1)
        return float(
            importance @ np.logaddexp(0, -signs * values) + weights[:-1] @ weights[:-1] / (2 * INVERSE_PENALTY * 13)
        )

    expected = minimize(loss, np.zeros(len(columns) + 1), method="BFGS", options={"gtol": 1e-7}).x
    classifier = train_classifier(features, is_good, {})
    assert classifier.weights[columns] == pytest.approx(expected[:-1], abs=2e-3)
    assert classifier.bias == pytest.approx(expected[-1], abs=2e-3)
    assert classifier.scores(good[:1])[0] == pytest.approx(
        logistic(dense[:1] @ expected[:-1] + expected[-1])[0], abs=1e-3
    )


def test_cross_validated_scores_separate_the_classes_and_not_random_labels(tmp_path: Path) -> None:
    examples = labelled_examples([write_labels(tmp_path / "a.jsonl")], threshold=None, limit=100)
    features = text_features(examples.texts)
    scores = cross_validated_scores(features, examples.is_good, examples.keys)
    assert scores[examples.is_good].min() > scores[~examples.is_good].max()


@pytest.mark.parametrize(
    ("field", "values", "threshold"),
    [("label", ("good", "bad"), None), ("label", (True, False), None), ("score", (3.5, 2), 3.5)],
)
def test_labels_are_words_numbers_or_scores_with_a_threshold(
    tmp_path: Path, field: str, values: tuple[object, object], threshold: float | None
) -> None:
    examples = labelled_examples([write_labels(tmp_path / "a.jsonl", field, values)], threshold=threshold, limit=100)
    labels = dict(zip(examples.texts, examples.is_good.tolist(), strict=True))
    assert {labels[text] for text in comparable_texts(GOOD)} == {True}
    assert {labels[text] for text in comparable_texts(BAD)} == {False}


def test_unusable_labels_are_refused_with_their_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.jsonl:1: score.*--threshold"):
        labelled_examples([write_labels(tmp_path / "a.jsonl", "score", (3, 2))], threshold=None, limit=100)
    with pytest.raises(DataError, match="expected a number"):
        labelled_examples([write_labels(tmp_path / "a.jsonl", "label", ("x", "y"))], threshold=1, limit=100)
    with pytest.raises(DataError, match="`label` or `score`"):
        labelled_examples([write_labels(tmp_path / "a.jsonl", "quality")], threshold=None, limit=100)
    with pytest.raises(DataError, match="at least 10 different good documents, got 0"):
        labelled_examples([write_labels(tmp_path / "a.jsonl", "label", (0, 0))], threshold=None, limit=100)


def test_raw_text_that_is_also_in_the_reference_is_no_example_of_the_other_class(tmp_path: Path) -> None:
    reference, raw = tmp_path / "good.txt", tmp_path / "raw.txt"
    reference.write_text("\n".join(GOOD))
    raw.write_text("\n".join(BAD + GOOD[:3]))
    sources = [[Source(path=str(path), cut_at="lines")] for path in (reference, raw)]  # type: ignore[arg-type]
    examples = reference_examples(*sources, limit=100)
    assert (int(examples.is_good.sum()), int((~examples.is_good).sum())) == (12, 12)
    limited = reference_examples(*sources, limit=10)
    assert (int(limited.is_good.sum()), int((~limited.is_good).sum())) == (10, 10)
    assert set(limited.texts) < set(examples.texts)


def test_a_classifier_is_stored_with_its_record_and_a_digest_of_its_weights(tmp_path: Path) -> None:
    path, classifier = tmp_path / "quality.safetensors", trained()
    classifier.save(path)
    loaded = TextClassifier.load(path)
    assert np.array_equal(loaded.weights, classifier.weights) and loaded.bias == classifier.bias
    assert json.loads(path.with_suffix(".json").read_text()) == loaded.record
    assert loaded.record["sha256"] == classifier.digest and loaded.record["documents"] == 24
    tensors = load_file(path)
    save_file({**tensors, "bias": tensors["bias"] + 1}, path, metadata={"vita": json.dumps(loaded.record)})
    with pytest.raises(DataError, match="weights with the digest in its header"):
        TextClassifier.load(path)
    save_file(tensors, path)
    with pytest.raises(DataError, match="got another file"):
        TextClassifier.load(path)
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="a classifier of text quality"):
        TextClassifier.load(path)


def test_the_filter_drops_documents_below_the_minimum_and_records_the_value(tmp_path: Path) -> None:
    path, classifier = tmp_path / "quality.safetensors", trained()
    classifier.save(path)
    use = FilterUse.model_validate({"classifier": {"model": str(path), "minimum": 0.6}})
    assert input_paths(use) == [str(path)], "the content of the model is part of the identity of a run"
    chain = FilterChain([use])
    assert chain(PageFeatures(Document("a", GOOD[0], "s"))) is None
    verdict = chain(PageFeatures(Document("b", BAD[0], "s")))
    assert verdict == ("classifier.score", f"{classifier.scores(BAD[:1])[0]:.4f}, under 0.6")


def test_a_filter_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="classifier"):
        FilterUse.model_validate("classifier")
