"""Sums of rows with the same index, against PyTorch's `index_add` and `embedding`."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vita.nn import row_sums
from vita.nn.row_sums import PIECE, embed, sum_rows


@pytest.mark.parametrize(
    ("rows", "size"), [(0, 3), (1, 1), (PIECE, 1), (PIECE + 1, 1), (64, 64), (1000, 7), (3000, 300)]
)
def test_sums_equal_those_of_index_add(rows: int, size: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    values = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    index = torch.randint(size, (rows,), generator=generator)
    expected = torch.zeros(size, 4, dtype=torch.float64).index_add(0, index, values)
    torch.testing.assert_close(sum_rows(values, index, size), expected, rtol=1e-12, atol=1e-12)


def test_an_index_without_rows_gets_zeros() -> None:
    sums = sum_rows(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([3, 1, 3]), 5)
    assert sums.flatten().tolist() == [0, 2, 0, 5, 0]


def test_numbers_of_16_bits_are_added_in_float32() -> None:
    """In bfloat16, 256 + 1 is 256."""
    values = torch.tensor([[256.0], *[[1.0]] * 8], dtype=torch.bfloat16)
    assert sum_rows(values, torch.zeros(9, dtype=torch.long), 1).item() == 264


def test_the_gradient_of_the_lookup_equals_that_of_embedding() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(9, (3, 50), generator=generator)
    weight = torch.randn(9, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    upstream = torch.randn(3, 50, 4, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad(embed(ids, weight), weight, upstream)
    (expected,) = torch.autograd.grad(F.embedding(ids, weight), weight, upstream)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda matrix: embed(ids, matrix).square(), (weight,))


def test_repeated_sums_have_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    values, index = torch.randn(5000, 8, generator=generator), torch.randint(50, (5000,), generator=generator)
    first = sum_rows(values, index, 50)
    assert all(torch.equal(sum_rows(values, index, 50), first) for _ in range(3))


def test_a_cpu_uses_the_kernels_of_pytorch() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert not row_sums.sums_in_order(torch.zeros(1))
        assert not row_sums.sums_in_order(torch.zeros(1, device="meta"))
    finally:
        torch.use_deterministic_algorithms(False)
