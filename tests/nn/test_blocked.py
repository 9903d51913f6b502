"""The attention backend for compiled training on CPUs equals the plain formula in values and gradients."""

from __future__ import annotations

import pytest
import torch

from vita.nn import blocked as module
from vita.nn.attention import AttentionOptions, causal_within, plain, within
from vita.nn.blocked import block_size, blocked


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Divide the short rows of these tests into several blocks."""
    monkeypatch.setattr(module, "SHORTEST_BLOCK", 2)


def test_a_row_is_divided_into_at_most_eight_blocks(monkeypatch):
    monkeypatch.setattr(module, "SHORTEST_BLOCK", 128)
    assert [block_size(length) for length in (7, 512, 1024, 1025, 4096)] == [128, 128, 128, 129, 512]


@pytest.mark.parametrize("length", [1, 3, 8, 13])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_values_and_gradients_equal_those_of_plain_attention(length, kv_heads, masked, causal):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, length, 8), (2, kv_heads, length, 8), (2, kv_heads, length, 8)]
    queries, keys, values = inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    documents = torch.randint(2, (2, length), generator=generator).cumsum(1)
    visible = (causal_within(documents) if causal else within(documents)) if masked else None
    options = AttentionOptions(causal=causal)
    expected, actual = (attend(queries, keys, values, visible, options) for attend in (plain, blocked))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    output_gradient = torch.randn(expected.shape, generator=generator)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(actual, inputs, output_gradient),
        torch.autograd.grad(expected, inputs, output_gradient),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
