"""Attention with windows in blocks of queries: the numbers of the formula, and fewer scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vita.nn import attention
from vita.nn.attention import AttentionOptions, causal_within, has_short_window, in_window, plain, sdpa, within
from vita.nn.blocked import blocked


def inputs(length: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, length, 8), (2, 2, length, 8), (2, 2, length, 8))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", [sdpa, blocked])
def test_blocks_give_the_output_and_the_gradients_of_the_formula(causal: bool, backend: object) -> None:
    length, window = 600, 33
    documents = torch.tensor([[0] * 200 + [1] * 400, [0] * 590 + [1] * 10])
    same = causal_within(documents) if causal else within(documents)
    visible = same & in_window(length, window, two_sided=not causal)
    options = AttentionOptions(window=window, causal=causal)
    assert has_short_window(length, length, window)
    results = []
    for function in (backend, plain):
        tensors = inputs(length)
        output = function(*tensors, visible, options)  # pyright: ignore[reportCallIssue]
        output.square().sum().backward()
        results.append([output.detach(), *(tensor.grad for tensor in tensors)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_window_needs_scores_in_proportion_to_the_length_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    scores: list[int] = []
    fused = attention.scaled_dot_product_attention

    def counted(queries: torch.Tensor, keys: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        scores.append(queries.shape[2] * keys.shape[2])
        return fused(queries, keys, *rest, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", counted)

    def count(length: int, window: int) -> int:
        scores.clear()
        queries, keys, values = inputs(length)
        visible = causal_within(torch.zeros(2, length, dtype=torch.long)) & in_window(length, window)
        sdpa(queries, keys, values, visible, AttentionOptions(window=window))
        return sum(scores)

    assert count(1024, 64) < 2.2 * count(512, 64)
    assert count(1024, 64) < count(1024, 1024) / 5
