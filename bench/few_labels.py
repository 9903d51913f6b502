"""Accuracy with few labels: linear classifiers on the outputs of encoders beside classifiers on single words.

    python -m bench.few_labels glue_sst2.jsonl.gz --models FOLDER... --controls FOLDER... --labels 32 64 128

In each of many stratified divisions, a classifier learns from `labels` sentences and is tested on all others. The
accuracy of a sentence is the mean over the divisions that test it. Differences are paired over sentences, with a
bootstrap interval (`vita.stats.intervals.paired_ratio`). `models` are pretrained encoders, `controls` the same encoders
before training, in the same order. Each program line is one JSON object.

Sentence vectors are the mean of the outputs (`outputs`), the mean of the token embeddings of length 1 (`tokens`), or
both side by side (`both`), without special tokens. They are centred, and scaled to a mean squared length of 1, without
labels. The strength of the regularization is fixed. The rows have the columns `sentence` and `label`.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F

from vita.data.tokens.text_encoding import TextEncoder
from vita.infer.pretrained import Pretrained
from vita.nn.pooling import text_states
from vita.stats.intervals import paired_ratio

# N sentence, D feature, S division

READOUTS = ("outputs", "tokens", "both")
INVERSE_REGULARIZATION = 1.0
"""C of the logistic regression on sentence vectors (scikit-learn)."""
WORD_CLASSIFIERS = {"naive Bayes": 0.1, "logistic regression": 10.0}
"""Classifiers on counts of words: Laplace smoothing of multinomial naive Bayes, C of the logistic regression."""

Divisions = Sequence[tuple[Int[np.ndarray, "T"], Int[np.ndarray, "U"]]]
Accuracies = Float[np.ndarray, "N"]


def divisions(targets: Int[np.ndarray, "N"], *, labels: int, count: int) -> Divisions:
    """Return stratified divisions into `labels` sentences that are learned and the others, which are tested."""
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(count, train_size=labels, random_state=0)
    return list(splitter.split(np.zeros(len(targets)), targets))


def sentence_accuracies(classifier: Any, features: Any, targets: Int[np.ndarray, "N"], parts: Divisions) -> Accuracies:
    """Return the share of correct predictions of each sentence, over the divisions that test it."""
    correct, tested = np.zeros(len(targets)), np.zeros(len(targets))
    for learned, others in parts:
        predicted = classifier.fit(features[learned], targets[learned]).predict(features[others])
        correct[others] += predicted == targets[others]
        tested[others] += 1
    if not tested.all():
        raise ValueError(f"{int((tested == 0).sum())} sentences are tested in no division; use more divisions")
    return correct / tested


def standardized(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Subtract the mean vector, and divide all by the root mean squared length."""
    centred = vectors - vectors.mean(0)
    return centred / np.sqrt((centred**2).sum(1).mean())


@torch.inference_mode()
def sentence_vectors(folder: Path, sentences: Sequence[str]) -> dict[str, Float[np.ndarray, "N D"]]:
    """Return the vectors of each readout."""
    pretrained = Pretrained.load(folder)
    model, special = pretrained.model, set(pretrained.tokenizer.special_ids)
    table = F.normalize(model.model.embed_tokens.weight.float(), dim=-1)
    outputs, tokens = [], []
    for text in TextEncoder(pretrained.tokenizer, length=model.architecture.context).encode([(s,) for s in sentences]):
        ids = torch.tensor([text.ids])
        positions = [index for index, token in enumerate(text.ids) if token not in special]
        states = text_states(model, ids, torch.tensor([len(text.ids)]))
        outputs.append(states[0, positions].float().mean(0))
        tokens.append(table[ids[0, positions]].mean(0))
    vectors = {
        "outputs": standardized(torch.stack(outputs).numpy()),
        "tokens": standardized(torch.stack(tokens).numpy()),
    }
    return {**vectors, "both": standardized(np.concatenate([vectors["outputs"], vectors["tokens"]], axis=1))}


def word_accuracies(sentences: Sequence[str], targets: Int[np.ndarray, "N"], parts: Divisions) -> dict[str, Accuracies]:
    """Return the accuracies of the classifiers on single words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB

    matrix: Any = CountVectorizer(token_pattern=r"\S+").fit_transform(sentences)
    counts = matrix.astype(np.float64)
    classifiers: Mapping[str, Callable[[float], Any]] = {
        "naive Bayes": lambda strength: MultinomialNB(alpha=strength),
        "logistic regression": lambda strength: LogisticRegression(C=strength, max_iter=1000),
    }
    return {
        name: sentence_accuracies(classifiers[name](strength), counts, targets, parts)
        for name, strength in WORD_CLASSIFIERS.items()
    }


def majority_accuracies(targets: Int[np.ndarray, "N"], parts: Divisions) -> Accuracies:
    """Return the accuracies of always predicting the most frequent class of the learned sentences."""
    from sklearn.dummy import DummyClassifier

    return sentence_accuracies(DummyClassifier(), np.zeros((len(targets), 1)), targets, parts)


def difference(first: Accuracies, second: Accuracies) -> dict[str, float]:
    """Return `first` minus `second` in percentage points, with its interval and p-value over sentences."""
    change = paired_ratio(second.tolist(), first.tolist(), [1.0] * len(first), seed=0, resamples=10_000)
    ends = change.difference
    return {
        **{name: round(100 * getattr(ends, name), 2) for name in ("value", "low", "high")},
        "p": round(change.p_value, 5),
    }


def compare(
    sentences: Sequence[str],
    targets: Int[np.ndarray, "N"],
    models: Iterable[tuple[Path, Path]],
    *,
    labels: Sequence[int],
    count: int,
) -> None:
    """Print the accuracies of all classifiers for each number of labels, and the differences of the models."""
    from sklearn.linear_model import LogisticRegression

    parts = {number: divisions(targets, labels=number, count=count) for number in labels}
    baselines: dict[int, Accuracies] = {}
    for number, division in parts.items():
        words = word_accuracies(sentences, targets, division)
        best = max(words, key=lambda name: words[name].mean())
        baselines[number] = words[best]
        shares = {**words, "majority": majority_accuracies(targets, division)}
        accuracy = {name: round(100 * float(values.mean()), 2) for name, values in shares.items()}
        print(json.dumps({"labels": number, "accuracy": accuracy, "baseline": best}), flush=True)
    for model, control in models:
        pairs = [sentence_vectors(folder, sentences) for folder in (model, control)]
        for number, division in parts.items():
            classifier = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=1000)
            for readout in READOUTS:
                trained, untrained = (
                    sentence_accuracies(classifier, vectors[readout], targets, division) for vectors in pairs
                )
                figures: dict[str, Any] = {"labels": number, "model": model.name, "readout": readout}
                figures |= {"accuracy": round(100 * float(trained.mean()), 2)}
                figures |= {"untrained": round(100 * float(untrained.mean()), 2)}
                figures |= {"over_untrained": difference(trained, untrained)}
                print(json.dumps({**figures, "over_words": difference(trained, baselines[number])}), flush=True)


def main() -> None:
    """Read the sentences and compare the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--controls", type=Path, nargs="+", required=True)
    parser.add_argument("--labels", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--divisions", type=int, default=200)
    arguments = parser.parse_args()
    if len(arguments.models) != len(arguments.controls):
        parser.error(f"{len(arguments.models)} models and {len(arguments.controls)} controls; expected equal numbers")
    with gzip.open(arguments.data, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    sentences = [row["sentence"].strip() for row in rows]
    targets = np.array([row["label"] for row in rows])
    pairs = zip(arguments.models, arguments.controls, strict=True)
    compare(sentences, targets, pairs, labels=arguments.labels, count=arguments.divisions)


if __name__ == "__main__":
    main()
