"""The KV cache: a text in any pieces, beside any other rows, gives the result of one pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vita.nn.cache import KVCache
from vita.spine.errors import ModelError
from vita.testing import tiny_model


def ids(rows: int, length: int) -> Tensor:
    return torch.randint(259, (rows, length), generator=torch.Generator().manual_seed(rows + length))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 13], [7, 1, 1, 8, 3]])
@torch.no_grad()
def test_a_text_in_pieces_equals_the_text_in_one_pass(pieces: list[int], kv_heads: int) -> None:
    model = tiny_model(kv_heads=kv_heads)
    token_ids = ids(3, 20)
    cache = KVCache(model.architecture, 3, block=8)
    logits = torch.cat([model(piece, cache=cache) for piece in token_ids.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(logits, model(token_ids), atol=1e-4, rtol=1e-4)
    assert cache.lengths == [20, 20, 20]


@torch.no_grad()
def test_rows_of_different_lengths_advance_in_one_batch() -> None:
    model = tiny_model()
    token_ids, lengths = ids(3, 30), [5, 11, 8]
    cache = KVCache(model.architecture, 3, block=4)
    model(token_ids[:, :11], cache=cache)  # beyond its length, a row contains values that will be overwritten
    cache.lengths = lengths
    for step in range(6):
        next_ids = torch.stack([token_ids[row, length + step] for row, length in enumerate(lengths)])
        logits = model(next_ids[:, None], cache=cache)[:, 0]
        for row, length in enumerate(lengths):
            expected = model(token_ids[row : row + 1, : length + step + 1])[0, -1]
            torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-4)
    pieces = model(torch.stack([token_ids[row, n + 6 : n + 9] for row, n in enumerate(lengths)]), cache=cache)
    for row, length in enumerate(lengths):
        expected = model(token_ids[row : row + 1, : length + 9])[0, -3:]
        torch.testing.assert_close(pieces[row], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tokens_can_be_removed_from_the_cache() -> None:
    model = tiny_model()
    token_ids = ids(1, 12)
    cache = KVCache(model.architecture, 1)
    model(token_ids, cache=cache)
    cache.lengths = [8]
    torch.testing.assert_close(model(token_ids[:, 8:], cache=cache), model(token_ids)[:, 8:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_memory_is_allocated_in_blocks_up_to_the_context() -> None:
    model = tiny_model(context=20)
    cache = KVCache(model.architecture, 1, block=8)
    assert cache.keys.numel() == 0
    capacities = []
    for _ in range(20):
        model(ids(1, 1), cache=cache)
        capacities.append(cache.keys.shape[3])
    assert capacities == [8] * 8 + [16] * 8 + [24] * 4
    with pytest.raises(ModelError, match="expected at most 20 tokens, the model's context, got 21"):
        model(ids(1, 1), cache=cache)


def test_positions_cannot_be_combined_with_a_cache() -> None:
    model = tiny_model()
    with pytest.raises(ModelError, match="cannot be combined with `cache`"):
        model(ids(1, 2), positions=torch.zeros(1, 2, dtype=torch.long), cache=KVCache(model.architecture, 1))
