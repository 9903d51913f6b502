"""Loss on rows of a token stream: the rows of the benchmark, and its mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vita.data.tokens.shards import write_shards
from vita.data.tokens.token_files import TokenDocument
from vita.evals import perplexity, token_rows
from vita.evals.results import EvalResults
from vita.evals.scorer import Pair
from vita.infer.engine import TextScore
from vita.spine.errors import DataError
from vita.testing import byte_tokenizer

DOCUMENT = 256


class RecordingScorer:
    """A scorer that gives each target -0.5 nats, and -1 where the target is the byte `b`."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []

    def score(self, pairs: Sequence[Pair], /) -> list[TextScore]:
        self.pairs += pairs
        return [TextScore(tuple(-1.0 if token == ord("b") else -0.5 for token in text), False) for _, text in pairs]


def test_rows_predict_each_token_from_those_before_it_in_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_rows, "ROWS_AT_ONCE", 2)
    stream = [DOCUMENT, *b"abc", DOCUMENT, *b"bbaacca"]  # 12 tokens: 3 rows of 3 targets, and 2 targets left over
    shards = write_shards(
        tmp_path, [(TokenDocument("d", "s"), np.array(stream))], vocabulary=300, document=DOCUMENT,
        tokenizer="digest", add_document_token=False,
    )  # fmt: skip
    scorer = RecordingScorer()
    scores = list(token_rows.score_rows(scorer, shards, byte_tokenizer(), length=3))
    a, b, c = b"abc"
    assert scorer.pairs == [([DOCUMENT], [a, b, c]), ([c], [DOCUMENT, b, b]), ([b], [a, a, c])]
    assert [score.tokens for score in scores] == [3, 3, 3]
    assert [score.bytes for score in scores] == [3, 2, 3]  # the document token has no bytes
    # 2, 2.5 and 1.5 nats for 9 targets and 8 bytes
    assert perplexity.loss(scores).value == pytest.approx(6 / 9)
    figures = EvalResults(rows_of_tokens=scores).facts()
    assert figures["validation/loss"] == pytest.approx(6 / 9, abs=1e-6)
    assert figures["validation/bits_per_byte"] == pytest.approx(6 / math.log(2) / 8, abs=1e-6)
    with pytest.raises(DataError, match="expected at least 13 tokens, got 12"):
        token_rows.row_count(shards, length=12)
