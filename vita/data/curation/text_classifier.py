"""A linear classifier of text quality: hashed words and pairs of words, and logistic regression.

    classifier = TextClassifier.load(Path("quality.safetensors"))
    classifier.scores(["A text."])              # probabilities of the class `good`

The features are those of fastText's supervised mode (Joulin et al. 2016, arXiv:1607.01759): words and pairs of
consecutive words, hashed to `2**HASH_BITS` columns. Case and punctuation are not compared. A column has the value
1 + ln(count), and the vector of a document has length 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vita.data.content import comparable_bytes, normalize_text
from vita.data.curation.word_batch import WordBatch
from vita.data.curation.words import MIX_B
from vita.spine.disk import write_atomically
from vita.spine.errors import DataError

HASH_BITS = 18
KIND = "vita-text-classifier-1"
"""Kind and version of the file; changed features need a new version."""


class SparseRows(NamedTuple):
    """The non-zero columns of several documents, ordered by document."""

    rows: Int64[np.ndarray, "E"]
    columns: Int64[np.ndarray, "E"]
    values: Float64[np.ndarray, "E"]
    num_rows: int
    num_columns: int = 1 << HASH_BITS

    def dot(self, weights: Float64[np.ndarray, "C"]) -> Float64[np.ndarray, "R"]:
        """Return the product with a vector of weights."""
        return np.bincount(self.rows, self.values * weights[self.columns], minlength=self.num_rows)

    def transposed_dot(self, factors: Float64[np.ndarray, "R"]) -> Float64[np.ndarray, "C"]:
        """Return the product of the transposed matrix with a vector of one factor per document."""
        return np.bincount(self.columns, self.values * factors[self.rows], minlength=self.num_columns)

    def select(self, documents: Int64[np.ndarray, "S"]) -> SparseRows:
        """Return the rows of some documents, given in ascending order."""
        numbers = np.full(self.num_rows, -1)
        numbers[documents] = np.arange(len(documents))
        rows = numbers[self.rows]
        inside = rows >= 0
        return SparseRows(rows[inside], self.columns[inside], self.values[inside], len(documents), self.num_columns)

    def used_columns(self) -> tuple[Int64[np.ndarray, "U"], SparseRows]:
        """Return the columns that are not empty, and the rows with these columns only."""
        used, columns = np.unique(self.columns, return_inverse=True)
        return used, self._replace(columns=columns, num_columns=len(used))


def text_features(texts: Sequence[bytes]) -> SparseRows:
    """Return the features of texts in the form of `comparable_bytes`."""
    batch = WordBatch.of(texts)
    pairs = batch.ngrams(2)
    hashes = np.concatenate([batch.hashes * MIX_B, pairs.hashes])
    documents = np.concatenate([batch.documents, batch.documents[pairs.starts]])
    keys = documents << HASH_BITS | (hashes >> np.uint64(64 - HASH_BITS)).astype(np.int64)
    keys, counts = np.unique(keys, return_counts=True)
    rows, columns = keys >> HASH_BITS, keys & ((1 << HASH_BITS) - 1)
    values = 1 + np.log(counts)
    lengths = np.sqrt(np.bincount(rows, values**2, minlength=len(texts)))
    return SparseRows(rows, columns, values / lengths[rows], len(texts))


def comparable_texts(texts: Sequence[str]) -> list[bytes]:
    """Return the form of texts that `text_features` takes."""
    return [comparable_bytes(*normalize_text(text)) for text in texts]


@dataclass(frozen=True)
class TextClassifier:
    """The weights of the columns, and the record of the training."""

    weights: Float32[np.ndarray, "C"]
    bias: float
    record: dict[str, Any]
    """Numbers of documents, sources and figures of the training."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights and the bias."""
        return hashlib.sha256(self.weights.tobytes() + np.float32(self.bias).tobytes()).hexdigest()

    def scores(self, texts: Sequence[str]) -> Float64[np.ndarray, "R"]:
        """Return the probability of the class `good` of each text."""
        return self.scores_of_comparable(comparable_texts(texts))

    def scores_of_comparable(self, texts: Sequence[bytes]) -> Float64[np.ndarray, "R"]:
        """Return the probabilities of texts in the form of `comparable_bytes`."""
        return logistic(text_features(texts).dot(self.weights.astype(np.float64)) + self.bias)

    def save(self, path: Path) -> None:
        """Write the weights with the record in the header, and the record beside it as JSON."""
        from safetensors.numpy import save

        description = {"kind": KIND, "sha256": self.digest, **self.record}
        tensors = {"weights": self.weights, "bias": np.array([self.bias], np.float32)}
        write_atomically(path, save(tensors, metadata={"vita": json.dumps(description)}))
        text = json.dumps(description, indent=2, ensure_ascii=False)
        write_atomically(path.with_suffix(".json"), f"{text}\n".encode())

    @classmethod
    def load(cls, path: Path) -> TextClassifier:
        """Read a classifier; another file or changed weights raise a `DataError`."""
        from safetensors import SafetensorError, safe_open

        hint = "train one with `vita train-filter`"
        try:
            with safe_open(path, "numpy") as file:
                description = json.loads((file.metadata() or {}).get("vita", "{}"))
                is_classifier = description.get("kind") == KIND and {*file.keys()} == {"weights", "bias"}
                weights, bias = (
                    (file.get_tensor("weights"), float(file.get_tensor("bias")[0])) if is_classifier else (None, 0.0)
                )
        except (OSError, SafetensorError) as error:
            raise DataError(str(path), expected="a classifier of text quality", got=str(error), hint=hint) from error
        if weights is None or weights.shape != (1 << HASH_BITS,):
            raise DataError(str(path), expected=f"a file of kind {KIND}", got="another file", hint=hint)
        classifier = cls(weights.astype(np.float32), bias, description)
        if classifier.digest != description.get("sha256"):
            raise DataError(str(path), expected="weights with the digest in its header", got="others", hint=hint)
        return classifier


def logistic(values: Float64[np.ndarray, "R"]) -> Float64[np.ndarray, "R"]:
    """Return 1 / (1 + exp(-values)) without overflow."""
    return np.exp(-np.logaddexp(0, -values))
