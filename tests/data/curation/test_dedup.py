"""Exact deduplication ignores case, white space and Unicode normalization forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.data.content import as_keys, comparable_bytes, content_key
from vita.data.curation.dedup import first_equal


def key(text: str) -> bytes:
    return content_key(text, text.encode())


@pytest.mark.parametrize(
    "other", ["the  cat\n\nsat.", "The Cat sat.\n", "\tTHE CAT SAT.", "The cat\u00a0sat.", "The cat sat."]
)
def test_case_white_space_and_normalization_are_ignored(other: str) -> None:
    assert key(other) == key("The cat sat.")


@pytest.mark.parametrize("other", ["The cat sat", "Thecat sat.", "The cat s at.", "The cät sat."])
def test_letters_and_punctuation_are_compared(other: str) -> None:
    assert key(other) != key("The cat sat.")


def test_composed_and_decomposed_letters_are_equal() -> None:
    assert key("Cafe\u0301 STRASSE") == key("café straße")


@settings(deadline=None)
@given(text=st.text(alphabet="aB \t\n\r\f\v", max_size=60))
def test_comparable_bytes_equal_split_and_join(text: str) -> None:
    assert comparable_bytes(text, text.encode()) == b" ".join(text.lower().encode().split())


@settings(deadline=None)
@given(texts=st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_the_first_equal_document_is_found(texts: list[str]) -> None:
    keys = as_keys([key(text) for text in texts])
    assert first_equal(keys).tolist() == [texts.index(text) for text in texts]


def test_a_lower_rank_precedes_an_earlier_position() -> None:
    keys = as_keys([key(text) for text in "abab"])
    assert first_equal(keys, rank=np.array([1, 1, 0, 1])).tolist() == [2, 1, 2, 1]
