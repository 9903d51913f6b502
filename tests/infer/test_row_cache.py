"""The KV cache of a batch: texts of any lengths join and leave, and memory follows their lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vita.infer.decoding_pass import DecodingPass
from vita.infer.row_cache import RowCache
from vita.nn.cache import KVCache, TextStates
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError
from vita.testing import tiny_model


def ids(length: int) -> Tensor:
    return torch.randint(259, (length,), generator=torch.Generator().manual_seed(length))


def states(model: Transformer, text: Tensor) -> TextStates:
    cache = KVCache(model.architecture, 1)
    model.hidden(text[None], cache=cache)
    return cache.text(0)


def step(model: Transformer, cache: RowCache, tokens: dict[int, list[int]], *, width: int = 16) -> dict[int, Tensor]:
    """Return the logits of each row after its new tokens, in the order of the tokens."""
    decoding = DecodingPass(cache, {row: len(new) for row, new in tokens.items()})
    inputs = torch.zeros(width, 1, dtype=torch.int64)
    for index, (row, offset) in enumerate(decoding.places):
        inputs[index] = tokens[row][offset]
    logits = model(inputs, cache=decoding, attention=decoding.attention(model.attention))[:, 0]
    by_row: dict[int, list[tuple[int, Tensor]]] = {}
    for index, (row, offset) in enumerate(decoding.places):
        by_row.setdefault(row, []).append((offset, logits[index]))
    return {row: torch.stack([logit for _, logit in sorted(pairs)]) for row, pairs in by_row.items()}


@torch.no_grad()
@pytest.mark.parametrize("single", [False, True])
def test_texts_of_all_classes_advance_as_in_one_pass(single: bool) -> None:
    """Texts of 5, 255, 300 and 700 tokens: the second outgrows its class with its second token."""
    model = tiny_model(context=1024)
    texts = {0: ids(20), 3: ids(270), 1: ids(310), 7: ids(710)}
    lengths = {0: 5, 3: 255, 1: 300, 7: 700}
    cache = RowCache(model.architecture, single=single)
    for row, text in texts.items():
        cache.put(row, states(model, text[: lengths[row]]))
    assert [size_class.slots for size_class in cache.classes] == ([1024] if single else [64, 256, 320, 768])
    for counts in ({0: 1, 3: 1, 1: 1, 7: 1}, {0: 3, 3: 2, 7: 1}, {1: 2, 3: 1}):
        tokens = {row: texts[row][lengths[row] :][:count].tolist() for row, count in counts.items()}
        for row, logits in step(model, cache, tokens).items():
            start, lengths[row] = lengths[row], lengths[row] + counts[row]
            expected = model(texts[row][None, : lengths[row]])[0, start:]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert cache.lengths == lengths
    if not single:
        assert [(size_class.slots, sorted(size_class.rows)) for size_class in cache.classes] == [
            (64, [0]), (320, [1, 3]), (768, [7]),
        ]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("lengths", [(150, 220), (240, 330), (300, 420), (720, 900), (40, 700)])
def test_bits_of_a_text_are_those_of_a_step_alone(single: bool, lengths: tuple[int, int]) -> None:
    """The kernel rounds the sums of a text differently over 192 and 256 slots."""
    model = tiny_model(context=1024, width=128, heads=2, kv_heads=1, head_dim=64)
    results = []
    for rows in ((0,), (0, 1)):
        cache = RowCache(model.architecture, single=single)
        for row in rows:
            cache.put(row, states(model, ids(lengths[row])))
        results += [step(model, cache, {row: [row + 3] for row in rows})[0]]
    assert torch.equal(*results)


@torch.no_grad()
def test_drafts_inside_the_room_of_a_row_have_the_bits_of_single_tokens() -> None:
    model = tiny_model(context=1024, width=128, heads=2, kv_heads=1, head_dim=64)
    tokens = ids(80).tolist()
    for length in (60, 188, 189, 190, 191, 192, 250, 319, 500):
        alone, drafted = (RowCache(model.architecture) for _ in range(2))
        for cache in (alone, drafted):
            cache.put(0, states(model, ids(length)))
        count = min(5, drafted.room(0))
        expected = torch.cat([step(model, alone, {0: [token]})[0] for token in tokens[:count]])
        assert torch.equal(step(model, drafted, {0: tokens[:count]})[0], expected)
        assert (drafted.room(0), count) == (alone.room(0), min(5, -(-(length + 1) // 64) * 64 - length))


@torch.no_grad()
def test_rows_leave_and_others_take_their_places() -> None:
    model = tiny_model(context=64)
    texts = {row: ids(10 + row) for row in range(6)}
    cache = RowCache(model.architecture)
    for row, text in texts.items():
        cache.put(row, states(model, text))
    cache.remove(1)
    cache.remove(5)
    cache.put(1, states(model, ids(30)))
    logits = step(model, cache, {0: [7], 1: [8], 4: [9]})
    for row, text, token in ((0, texts[0], 7), (1, ids(30), 8), (4, texts[4], 9)):
        expected = model(torch.cat([text, torch.tensor([token])])[None])[0, -1:]
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-4)
    assert cache.lengths == {0: 11, 1: 31, 2: 12, 3: 13, 4: 15}
    assert torch.equal(cache.text(2).keys, states(model, texts[2]).keys)
    with pytest.raises(ModelError, match="expected at most 64 tokens, the model's context, got 65"):
        cache.reserve({1: 34})


@torch.no_grad()
def test_removed_tokens_do_not_count() -> None:
    model = tiny_model(context=64)
    text = ids(20)
    cache = RowCache(model.architecture)
    cache.put(0, states(model, text[:10]))
    step(model, cache, {0: [1, 2, 3]})
    cache.truncate(0, 11)
    logits = step(model, cache, {0: [5]})[0]
    expected = model(torch.tensor([*text[:10].tolist(), 1, 5])[None])[0, -1:]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_memory_follows_the_lengths_of_the_texts() -> None:
    """Bytes of a token: 2 layers x 2 heads x (16 + 16) numbers of 4 bytes."""
    architecture = tiny_model(context=4096, layers=2, kv_heads=2, head_dim=16).architecture
    token = 2 * 2 * 32 * 4
    text = TextStates(*(torch.zeros(2, 2, 100, 16) for _ in range(2)))
    long_text = TextStates(*(torch.zeros(2, 2, 4000, 16) for _ in range(2)))
    cache = RowCache(architecture)
    for row in range(8):
        cache.put(row, text)
    assert cache.nbytes == 9 * 128 * token, "memory for one more"
    cache.put(8, long_text)
    assert cache.nbytes == (9 * 128 + 4096) * token, "the others stay in their class"
    single = RowCache(architecture, single=True)
    for row in range(8):
        single.put(row, text)
    single.put(8, long_text)
    assert single.nbytes >= 9 * 4096 * token
    for row in range(9):
        cache.remove(row)
    assert cache.nbytes == 0
