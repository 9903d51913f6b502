"""With the cache, a text read in any pieces beside any others gives what reading it whole gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vita.infer.batch_invariance import decoding_attention
from vita.nn.cache import KVCache
from vita.spine.errors import ModelError
from vita.testing import tiny_model


def ids(rows: int, length: int) -> Tensor:
    return torch.randint(259, (rows, length), generator=torch.Generator().manual_seed(rows + length))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 13], [7, 1, 1, 8, 3]])
@torch.no_grad()
def test_a_text_in_pieces_is_the_whole_text(pieces: list[int], kv_heads: int) -> None:
    model = tiny_model(kv_heads=kv_heads)
    given = ids(3, 20)
    cache = KVCache(model.architecture, 3, block=8)
    found = torch.cat([model(piece, cache=cache) for piece in given.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(found, model(given), atol=1e-4, rtol=1e-4)
    assert cache.lengths == [20, 20, 20]


@torch.no_grad()
def test_texts_of_unequal_lengths_go_on_side_by_side() -> None:
    model = tiny_model()
    given, lengths = ids(3, 30), [5, 11, 8]
    cache = KVCache(model.architecture, 3, block=4)
    model(given[:, :11], cache=cache)  # beyond its length, a row reads what will be overwritten
    cache.lengths = lengths
    for step in range(6):
        fresh = torch.stack([given[row, length + step] for row, length in enumerate(lengths)])
        found = model(fresh[:, None], cache=cache)[:, 0]
        for row, length in enumerate(lengths):
            whole = model(given[row : row + 1, : length + step + 1])[0, -1]
            torch.testing.assert_close(found[row], whole, atol=1e-4, rtol=1e-4)
    pieces = model(torch.stack([given[row, n + 6 : n + 9] for row, n in enumerate(lengths)]), cache=cache)
    for row, length in enumerate(lengths):
        whole = model(given[row : row + 1, : length + 9])[0, -3:]
        torch.testing.assert_close(pieces[row], whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_texts_join_and_leave_rows_while_the_others_advance() -> None:
    model = tiny_model()
    given = ids(3, 12)
    texts = []
    for row, length in enumerate((11, 9, 5)):
        text = KVCache(model.architecture, 1)
        model(given[row : row + 1, :length], cache=text)
        texts.append(text)
    batch = KVCache(model.architecture, 4, free=True)
    batch.put(1, texts[1].text(0))
    batch.put(2, texts[0].text(0))
    batch.put(3, texts[0].text(0))
    batch.clear(3)
    assert (batch.first_free, batch.lengths) == (0, [0, 9, 11, 0])
    decode = decoding_attention(model.attention)
    fresh = torch.tensor([0, int(given[1, 9]), int(given[0, 11]), 0])[:, None]
    found = model(fresh, cache=batch, attention=decode)[:, 0]
    torch.testing.assert_close(found[1], model(given[1:2, :10])[0, -1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[2], model(given[:1])[0, -1], atol=1e-4, rtol=1e-4)
    batch.clear(2)
    batch.put(0, texts[2].text(0))
    fresh = torch.tensor([int(given[2, 5]), int(given[1, 10]), 0, 0])[:, None]
    found = model(fresh, cache=batch, attention=decode)[:, 0]
    assert batch.lengths == [6, 11, 0, 0]
    torch.testing.assert_close(found[0], model(given[2:, :6])[0, -1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], model(given[1:2, :11])[0, -1], atol=1e-4, rtol=1e-4)


def test_a_row_holds_the_text_that_was_put_and_is_wiped_when_it_is_freed() -> None:
    architecture = tiny_model().architecture
    rows = KVCache(architecture, 3, free=True)
    text = KVCache(architecture, 1)
    text.begin(1, 5)
    text.keys.uniform_()
    rows.put(1, text.text(0))
    assert (rows.first_free, rows.lengths) == (0, [0, 5, 0])
    assert torch.equal(rows.keys[:, 1, :, :5], text.keys[:, 0, :, :5])
    positions, visible = rows.begin(16, 1)
    assert visible is not None
    assert positions.flatten().tolist() == [0, 5, *[0] * 14]
    assert visible.sum(-1).flatten().tolist() == [1, 6]
    rows.clear(1)
    assert not rows.keys.any()
    assert rows.lengths == [0, 0, 0]
    with pytest.raises(ModelError, match="free rows advance by single tokens"):
        rows.begin(3, 2)


@torch.no_grad()
def test_tokens_can_be_taken_back() -> None:
    model = tiny_model()
    given = ids(1, 12)
    cache = KVCache(model.architecture, 1)
    model(given, cache=cache)
    cache.lengths = [8]
    torch.testing.assert_close(model(given[:, 8:], cache=cache), model(given)[:, 8:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_memory_is_taken_in_blocks_up_to_the_context() -> None:
    model = tiny_model(context=20)
    cache = KVCache(model.architecture, 1, block=8)
    assert cache.keys.numel() == 0
    held = []
    for _ in range(20):
        model(ids(1, 1), cache=cache)
        held.append(cache.keys.shape[3])
    assert held == [8] * 8 + [16] * 8 + [24] * 4
    with pytest.raises(ModelError, match="expected at most 20 tokens, the model's context, got 21"):
        model(ids(1, 1), cache=cache)


def test_a_cache_knows_positions_itself() -> None:
    model = tiny_model()
    with pytest.raises(ModelError, match="cannot be combined with `cache`"):
        model(ids(1, 2), positions=torch.zeros(1, 2, dtype=torch.long), cache=KVCache(model.architecture, 1))
