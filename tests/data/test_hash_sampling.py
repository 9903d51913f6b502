"""Hash-based sampling depends only on content and seed, and gives the requested fractions."""

from __future__ import annotations

import numpy as np
import pytest

from vita.data.content import as_keys, content_key
from vita.data.hash_sampling import hash_fractions, held_out_mask, repeat_counts

KEYS = as_keys([content_key(str(number), str(number).encode()) for number in range(20_000)])


def test_hash_fractions_are_uniform_and_depend_on_content_seed_and_purpose() -> None:
    draws = hash_fractions(KEYS, seed=1, purpose=1)
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert abs(counts - 1000).max() < 150
    assert (hash_fractions(KEYS[::-1], seed=1, purpose=1) == draws[::-1]).all()
    for seed, purpose in ((2, 1), (1, 2), (-1, 1)):
        assert abs(np.corrcoef(draws, hash_fractions(KEYS, seed=seed, purpose=purpose))[0, 1]) < 0.03


def test_a_fraction_or_a_number_of_texts_is_held_out() -> None:
    draws = hash_fractions(KEYS, seed=0, purpose=1)
    assert held_out_mask(draws, 0.01).mean() == pytest.approx(0.01, abs=0.003)
    assert held_out_mask(draws, 7).sum() == 7
    assert held_out_mask(draws, 0).sum() == 0
    assert held_out_mask(draws[:5], 10**9).all()


def test_a_small_fraction_holds_out_one_text_with_all_its_copies() -> None:
    draws = np.array([0.5, 0.3, 0.7, 0.3])
    assert held_out_mask(draws, 1e-6).tolist() == [False, True, False, True]
    assert held_out_mask(draws, 1).tolist() == [False, True, False, True]


def test_a_larger_fraction_includes_the_texts_of_a_smaller_one() -> None:
    draws = hash_fractions(KEYS, seed=0, purpose=1)
    assert (held_out_mask(draws, 0.05) >= held_out_mask(draws, 0.01)).all()


def test_repeat_counts_have_the_requested_mean() -> None:
    draws = hash_fractions(KEYS, seed=0, purpose=2)
    for repeat in (0.25, 1.0, 2.5, 3.0):
        times = repeat_counts(draws, np.full(len(draws), repeat))
        assert times.mean() == pytest.approx(repeat, abs=0.02)
        assert set(times.tolist()) <= {int(np.floor(repeat)), int(np.ceil(repeat))}
