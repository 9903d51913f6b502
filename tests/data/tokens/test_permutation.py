"""The shuffle that is computed: a permutation of any size, another one each epoch, any place at once."""

from __future__ import annotations

import numpy as np
import pytest

from vita.data.tokens.permutation import Permutation, shuffled


@pytest.mark.parametrize("size", [*range(1, 70), 1000, 4096, 4097, 65_537])
def test_every_place_is_taken_once(size: int) -> None:
    assert sorted(Permutation(size, seed=3, epoch=1)(np.arange(size)).tolist()) == list(range(size))


def test_one_place_is_found_without_the_others() -> None:
    permutation = Permutation(1000, seed=0)
    assert permutation(np.array([617])).tolist() == [permutation(np.arange(1000))[617]]


def test_a_huge_order_costs_nothing() -> None:
    found = Permutation(10**15, seed=0)(np.array([0, 1, 10**15 - 1]))
    assert len(set(found.tolist())) == 3 and found.max() < 10**15 and found.min() >= 0


def test_seed_and_epoch_change_the_order() -> None:
    orders = {tuple(Permutation(50, seed=seed, epoch=epoch)(np.arange(50))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_small_orders_are_about_equally_likely() -> None:
    """All 24 orders of four items, over 2,400 seeds: 100 each, give or take (the chance of a false alarm is 1e-6)."""
    found = [tuple(Permutation(4, seed=seed)(np.arange(4))) for seed in range(2400)]
    counts = [found.count(order) for order in set(found)]
    assert len(counts) == 24 and sum((count - 100) ** 2 / 100 for count in counts) < 70


def test_the_order_is_the_same_on_every_machine() -> None:
    """Fixed by hand: a change here would change which text every seed trains on."""
    assert Permutation(10, seed=0)(np.arange(10)).tolist() == [7, 9, 6, 8, 2, 4, 3, 5, 1, 0]


def test_an_endless_sequence_serves_everything_once_an_epoch() -> None:
    whole = [item for _, items in shuffled(0, 21, size=7, seed=1) for item in items.tolist()]
    assert all(sorted(whole[at : at + 7]) == list(range(7)) for at in (0, 7, 14))
    assert [epoch for epoch, _ in shuffled(5, 10, size=7, seed=1)] == [0, 1, 2]
    assert [item for _, items in shuffled(5, 10, size=7, seed=1) for item in items.tolist()] == whole[5:15]
