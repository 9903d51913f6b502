"""Computed permutations of any size: a different one per epoch, with random access."""

from __future__ import annotations

import numpy as np
import pytest

from vita.data.tokens.permutation import Permutation, shuffled


@pytest.mark.parametrize("size", [*range(1, 70), 1000, 4096, 4097, 65_537])
def test_every_index_occurs_once(size: int) -> None:
    assert sorted(Permutation(size, seed=3, epoch=1)(np.arange(size)).tolist()) == list(range(size))


def test_single_positions_can_be_computed() -> None:
    permutation = Permutation(1000, seed=0)
    assert permutation(np.array([617])).tolist() == [permutation(np.arange(1000))[617]]


def test_a_huge_permutation_needs_no_memory() -> None:
    indices = Permutation(10**15, seed=0)(np.array([0, 1, 10**15 - 1]))
    assert len(set(indices.tolist())) == 3 and indices.max() < 10**15 and indices.min() >= 0


def test_seed_and_epoch_change_the_order() -> None:
    orders = {tuple(Permutation(50, seed=seed, epoch=epoch)(np.arange(50))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_small_orders_are_about_equally_likely() -> None:
    """Each of the 24 orders of four items occurs about 100 times in 2,400 seeds (chi-squared test, p = 1e-6)."""
    orders = [tuple(Permutation(4, seed=seed)(np.arange(4))) for seed in range(2400)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24 and sum((count - 100) ** 2 / 100 for count in counts) < 70


def test_the_order_is_the_same_on_every_machine() -> None:
    """The values are fixed: a change would change the training text of every seed."""
    assert Permutation(10, seed=0)(np.arange(10)).tolist() == [7, 9, 6, 8, 2, 4, 3, 5, 1, 0]


def test_the_endless_sequence_contains_each_item_once_per_epoch() -> None:
    items_of_epochs = [item for _, items in shuffled(0, 21, size=7, seed=1) for item in items.tolist()]
    assert all(sorted(items_of_epochs[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
    assert [epoch for epoch, _ in shuffled(5, 10, size=7, seed=1)] == [0, 1, 2]
    assert [item for _, items in shuffled(5, 10, size=7, seed=1) for item in items.tolist()] == items_of_epochs[5:15]
