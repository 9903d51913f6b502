"""Hash-based sampling of single records: uniform, independent of position, with the requested mean."""

from __future__ import annotations

import pytest

from vita.data.hash_sampling import hash_fraction, repeat_count

TEXTS = [f"text {number}" for number in range(4000)]


def test_a_hash_fraction_is_uniform_and_depends_on_text_and_purpose() -> None:
    fractions = [hash_fraction(text, "a") for text in TEXTS]
    assert min(fractions) >= 0 and max(fractions) < 1
    assert all(
        sum(low <= fraction < low + 0.1 for fraction in fractions) == pytest.approx(400, abs=80)
        for low in (0.0, 0.3, 0.9)
    )
    assert hash_fraction("text 7", "a") == fractions[7] != hash_fraction("text 7", "b")


def test_repeat_counts_round_to_neighbouring_integers_with_the_requested_mean() -> None:
    for repeat in (0.25, 1.0, 2.5, 3.0):
        counts = [repeat_count(repeat, text) for text in TEXTS]
        assert sum(counts) / len(counts) == pytest.approx(repeat, abs=0.03)
        assert set(counts) <= {int(repeat), int(repeat) + (repeat % 1 > 0)}
