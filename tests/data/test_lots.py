"""Lots of single records: even, the same wherever a record stands, and in the mean what was asked for."""

from __future__ import annotations

import pytest

from vita.data.hash_sampling import hash_fraction, repeat_count

TEXTS = [f"text {number}" for number in range(4000)]


def test_a_lot_is_even_and_follows_from_text_and_purpose_alone() -> None:
    fractions = [hash_fraction(text, "a") for text in TEXTS]
    assert min(fractions) >= 0 and max(fractions) < 1
    assert all(
        sum(low <= fraction < low + 0.1 for fraction in fractions) == pytest.approx(400, abs=80)
        for low in (0.0, 0.3, 0.9)
    )
    assert hash_fraction("text 7", "a") == fractions[7] != hash_fraction("text 7", "b")


def test_passes_are_whole_ones_and_a_drawn_part() -> None:
    for repeat in (0.25, 1.0, 2.5, 3.0):
        counts = [repeat_count(repeat, text) for text in TEXTS]
        assert sum(counts) / len(counts) == pytest.approx(repeat, abs=0.03)
        assert set(counts) <= {int(repeat), int(repeat) + (repeat % 1 > 0)}
