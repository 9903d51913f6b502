"""Masks of blocks and FlexAttention, against dense masks and the formula of attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from vita.nn.attention import AttentionOptions, causal_within, in_window, plain, within
from vita.nn.flex import BLOCK, block_maps, flex, key_range, visible_blocks
from vita.nn.transformer import SelfAttention
from vita.testing import tiny_model
from vita.train.block_masks import has_block_kernels, use_block_masks
from vita.train.compilation import compile_layers
from vita.train.parallel.mesh import ProcessMesh

LENGTH = 300
CASES = [(True, None), (True, 1), (True, 10), (True, 200), (False, None), (False, 10), (False, 200)]


def documents() -> Tensor:
    """Return two rows: one with documents of about 20 to 200 tokens, one with a single document."""
    lengths = torch.tensor([1, 19, 200, 5, 75])
    return torch.stack((torch.repeat_interleave(torch.tensor([0, 1, 2, 3, 7]), lengths), torch.zeros(LENGTH).long()))


def dense_mask(*, causal: bool, window: int | None) -> Tensor:
    mask = causal_within(documents()) if causal else within(documents())
    return mask if window is None else mask & in_window(LENGTH, window, two_sided=not causal)


@pytest.mark.parametrize(("causal", "window"), CASES)
def test_the_range_of_keys_is_that_of_the_dense_mask(causal: bool, window: int | None) -> None:
    keys = key_range(documents(), causal=causal, window=window)
    index = torch.arange(LENGTH)
    ranges = (index >= keys.first[:, :, None]) & (index <= keys.last[:, :, None])
    assert torch.equal(ranges[:, None], dense_mask(causal=causal, window=window))


@pytest.mark.parametrize(("causal", "window"), CASES)
def test_blocks_contain_exactly_the_visible_scores(causal: bool, window: int | None) -> None:
    """A block is marked if the dense mask has a visible key in it, and as full if it has nothing else."""
    partial, full = block_maps(key_range(documents(), causal=causal, window=window))
    count = -(-LENGTH // BLOCK)
    padded = torch.zeros(2, count * BLOCK, count * BLOCK, dtype=torch.bool)
    padded[:, :LENGTH, :LENGTH] = dense_mask(causal=causal, window=window)[:, 0]
    blocks = padded.unflatten(1, (count, BLOCK)).unflatten(3, (count, BLOCK)).transpose(2, 3).flatten(3)
    assert torch.equal(full, blocks.all(-1))
    assert torch.equal(partial, blocks.any(-1) & ~blocks.all(-1))


def states(*, head_dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries of 4 heads, and keys and values of 2."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, heads, LENGTH, head_dim, generator=generator) for heads in (4, 2, 2))
    return queries, keys, values


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 10), (False, 200)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_equals_the_formula(causal: bool, window: int | None, softcap: float | None) -> None:
    options = AttentionOptions(scale=0.3, softcap=softcap, causal=causal)
    blocks = visible_blocks(documents(), causal=causal, window=window)
    expected = plain(*states(), dense_mask(causal=causal, window=window), options)
    torch.testing.assert_close(flex(*states(), blocks, options), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the compiler of PyTorch
def test_compiled_layers_compute_the_marked_blocks_of_any_mask_with_one_graph() -> None:
    """Uncompiled, FlexAttention ignores the lists of blocks; the compiled kernel reads nothing else."""
    model = tiny_model(std=0.1, context=LENGTH, head_dim=16, window=40, window_layers=[0])
    ids = torch.randint(model.architecture.vocabulary, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    texts = [documents(), documents().flip(0)]
    with torch.no_grad():
        expected = [model.hidden(ids, documents=numbers) for numbers in texts]
        use_block_masks(model)
        compile_layers(model)
        counters.clear()
        outputs = [model.hidden(ids, documents=numbers) for numbers in texts]
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_model_with_windows_and_documents_has_the_same_outputs() -> None:
    model = tiny_model(std=0.1, context=LENGTH, window=40, window_layers=[0])
    ids = torch.randint(model.architecture.vocabulary, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = [model.hidden(ids, documents=documents()), model.hidden(ids)]
        use_block_masks(model)
        outputs = [model.hidden(ids, documents=documents()), model.hidden(ids)]
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-5)


def test_a_cpu_keeps_dense_masks() -> None:
    assert not has_block_kernels(tiny_model(), ProcessMesh())


def test_every_layer_gets_the_attention_with_block_masks() -> None:
    model = tiny_model()
    use_block_masks(model)
    assert all(part.attend is flex for part in model.modules() if isinstance(part, SelfAttention))
