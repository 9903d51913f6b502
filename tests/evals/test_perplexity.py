"""Windows, bits per byte and perplexity on a model with known probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.data.records import Document
from vita.evals.perplexity import bits_per_byte, by_source, perplexity, score_documents, windows

BEGIN = 256


def encode_bytes(text: str) -> list[int]:
    """Encode one token per UTF-8 byte."""
    return list(text.encode())


@dataclass(frozen=True)
class Score:
    logprob: float
    greedy: bool = False


class OneBitModel:
    """A model that gives every byte one bit and records the scored pairs."""

    def __init__(self) -> None:
        self.scored_pairs: list[tuple[list[int], list[int]]] = []

    def score(self, pairs: Sequence[tuple[list[int], list[int]]], /) -> list[Score]:
        self.scored_pairs.extend(pairs)
        return [Score(-math.log(2) * len(after)) for _, after in pairs]


def test_later_windows_have_one_context_token_and_the_last_window_is_filled() -> None:
    # Worked by hand; lm-evaluation-harness gives the same for 10 tokens and a length of 4.
    assert list(windows(range(10), prefix=-1, context=4)) == [
        ([-1], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]


def test_a_smaller_stride_gives_every_token_more_context() -> None:
    assert list(windows(range(6), prefix=-1, context=4, stride=1)) == [
        ([-1], [0, 1, 2, 3]),
        ([0, 1, 2, 3], [4]),
        ([1, 2, 3, 4], [5]),
    ]


@given(st.integers(0, 60), st.integers(1, 17), st.integers(1, 20))
def test_every_token_is_scored_once_and_no_window_is_too_long(length: int, context: int, stride: int) -> None:
    pairs = list(windows(range(length), prefix=-1, context=context, stride=stride))
    assert [token for _, after in pairs for token in after] == list(range(length))
    for before, after in pairs:
        assert before and after and len(before) + len(after) <= context + 1
        assert [*before, *after][1:] == list(range(after[-1] + 2 - len(before) - len(after), after[-1] + 1))


def test_bits_are_counted_per_utf8_byte_and_per_token() -> None:
    documents = [Document("a", "héllo", "x"), Document("b", "abc" * 9, "y")]
    scores = list(score_documents(OneBitModel(), documents, encode=encode_bytes, prefix=BEGIN, context=8))
    assert [(score.bytes, score.tokens) for score in scores] == [(6, 6), (27, 27)]
    assert bits_per_byte(scores).value == pytest.approx(1.0)
    assert perplexity(scores).value == pytest.approx(2.0)
    assert {source: len(source_scores) for source, source_scores in by_source(scores).items()} == {"x": 1, "y": 1}


def test_a_document_is_scored_after_the_document_token() -> None:
    model = OneBitModel()
    list(score_documents(model, [Document("a", "ab", "x")], encode=encode_bytes, prefix=BEGIN, context=8))
    assert model.scored_pairs == [([256], [97, 98])]


def test_scores_do_not_depend_on_the_number_of_windows_per_batch() -> None:
    documents = [Document(str(n), "word " * n, "x") for n in range(7)]
    scores = list(score_documents(OneBitModel(), documents, encode=encode_bytes, prefix=BEGIN, context=8))
    single_window_scores = list(
        score_documents(OneBitModel(), documents, encode=encode_bytes, prefix=BEGIN, context=8, windows_at_once=1)
    )
    assert scores == single_window_scores
    assert [score.id for score in scores] == ["1", "2", "3", "4", "5", "6"]  # the empty document has nothing to predict
