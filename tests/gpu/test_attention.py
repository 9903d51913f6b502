"""FlexAttention on a CUDA device: outputs, gradients and memory of attention within documents and windows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.gpu.device import DEVICE, REHEARSES, cuda_only, gpu
from vita.nn.attention import AttentionOptions, causal_within, in_window, plain
from vita.nn.flex import flex, visible_blocks

pytestmark = [
    *gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:flex_attention called without torch.compile"),
]


def documents(rows: int, length: int) -> Tensor:
    """Return documents of 200 tokens."""
    return (torch.arange(length, device=DEVICE) // 200).repeat(rows, 1)


def states(length: int, dtype: torch.dtype, *, rows: int = 2, head_dim: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries of 8 heads, and keys and values of 2."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(rows, heads, length, head_dim, generator=generator) for heads in (8, 2, 2)]
    queries, keys, values = (part.to(DEVICE, dtype).requires_grad_(not REHEARSES) for part in parts)
    return queries, keys, values


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.bfloat16, 3e-2)])
def test_grouped_queries_within_documents_equal_the_formula(
    window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    length = 1000  # not a multiple of the blocks
    texts, options = documents(2, length), AttentionOptions(window=window)
    mask = causal_within(texts)
    if window is not None:
        mask = mask & in_window(length, window, device=texts.device)
    inputs, references = states(length, dtype), states(length, dtype)
    mixed = flex(*inputs, visible_blocks(texts, causal=True, window=window), options)
    expected = plain(*references, mask, options)
    torch.testing.assert_close(mixed, expected, rtol=tolerance, atol=tolerance)
    if REHEARSES:
        return
    mixed.float().square().mean().backward()
    expected.float().square().mean().backward()
    for tensor, reference in zip(inputs, references, strict=True):
        assert tensor.grad is not None and reference.grad is not None
        scale = reference.grad.abs().max().item()
        torch.testing.assert_close(tensor.grad, reference.grad, rtol=tolerance, atol=tolerance * scale)


@cuda_only
def test_a_masked_row_needs_less_memory_than_its_dense_mask() -> None:
    length = 32768
    inputs, texts = states(length, torch.bfloat16, rows=1), documents(1, length)
    flex(*inputs, visible_blocks(texts, causal=True)).sum().backward()  # compiles
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    flex(*inputs, visible_blocks(texts, causal=True)).sum().backward()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < length * length / 2  # a byte for each score of a dense mask
