"""The backend for compiled training on CPUs computes what the spelled-out formula does, backward too."""

from __future__ import annotations

import pytest
import torch

from vita.nn.attention import causal_within, plain
from vita.nn.blocked import blocked


@pytest.mark.parametrize("length", [1, 3, 8, 13])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_the_formula(length, kv_heads, masked):
    chance = torch.Generator().manual_seed(0)
    shapes = [(2, 4, length, 8), (2, kv_heads, length, 8), (2, kv_heads, length, 8)]
    queries, keys, values = inputs = [torch.randn(shape, generator=chance).requires_grad_() for shape in shapes]
    documents = torch.randint(2, (2, length), generator=chance).cumsum(1)
    visible = causal_within(documents) if masked else None
    wanted, found = plain(queries, keys, values, visible), blocked(queries, keys, values, visible)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    given = torch.randn(wanted.shape, generator=chance)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, given), torch.autograd.grad(wanted, inputs, given), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
