"""The attention backend for compiled training on CPUs equals the plain formula in values and gradients."""

from __future__ import annotations

import pytest
import torch

from vita.nn.attention import causal_within, plain
from vita.nn.blocked import blocked


@pytest.mark.parametrize("length", [1, 3, 8, 13])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_those_of_plain_attention(length, kv_heads, masked):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, length, 8), (2, kv_heads, length, 8), (2, kv_heads, length, 8)]
    queries, keys, values = inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    documents = torch.randint(2, (2, length), generator=generator).cumsum(1)
    visible = causal_within(documents) if masked else None
    expected, actual = plain(queries, keys, values, visible), blocked(queries, keys, values, visible)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    output_gradient = torch.randn(expected.shape, generator=generator)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(actual, inputs, output_gradient),
        torch.autograd.grad(expected, inputs, output_gradient),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
