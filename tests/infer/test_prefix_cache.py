"""The prefix cache: the same bits with and without it, only the tokens that differ are read, and a limited size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vita.infer.engine import Engine
from vita.infer.prefix_cache import CPU_BLOCK, PrefixCache
from vita.infer.prompts import PromptState
from vita.infer.request import GenerationRequest, PromptEvent, TokenEvent
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.nn.cache import TextStates
from vita.nn.transformer import Transformer
from vita.testing import byte_tokenizer, tiny_model

MEBIBYTE = 2**20


def text(count: int, *, seed: int = 0) -> list[int]:
    return torch.randint(0, 250, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def read(model: Transformer, ids: list[int], prefixes: PrefixCache | None = None, **options: Any) -> PromptState:
    prompt = PromptState(ids, **options)
    while not prompt.is_read:
        prompt.read_piece(model, prefixes)
    return prompt


def assert_same_bits(first: PromptState, second: PromptState) -> None:
    assert first.states is not None and second.states is not None
    assert first.hidden is not None and second.hidden is not None
    assert torch.equal(first.states.keys, second.states.keys)
    assert torch.equal(first.states.values, second.states.values)
    assert torch.equal(first.hidden, second.hidden)


@pytest.mark.parametrize(("shared", "rest"), [(128, 1), (300, 40), (512, 128), (640, 300)])
def test_a_prompt_has_the_same_bits_with_reused_blocks(shared: int, rest: int) -> None:
    model, cache = tiny_model(context=1024), PrefixCache(MEBIBYTE)
    model.pack()
    prefix = text(shared)
    read(model, [*prefix, *text(17, seed=1)], cache)
    ids = [*prefix, *text(rest, seed=2)]
    reusing = read(model, ids, cache)
    assert reusing.num_reused == shared // CPU_BLOCK * CPU_BLOCK
    assert_same_bits(reusing, read(model, ids))


def test_the_last_token_of_a_prompt_is_always_read() -> None:
    model, cache = tiny_model(context=512), PrefixCache(MEBIBYTE)
    ids = text(2 * CPU_BLOCK)
    first, second = read(model, ids, cache), read(model, ids, cache)
    assert (first.num_reused, second.num_reused) == (0, CPU_BLOCK)
    assert_same_bits(first, second)


def test_a_block_after_another_beginning_is_not_reused() -> None:
    model, cache = tiny_model(context=512), PrefixCache(MEBIBYTE)
    block, suffix = text(CPU_BLOCK, seed=1), [3]
    read(model, [*text(CPU_BLOCK), *block, *suffix], cache)
    other = read(model, [*text(CPU_BLOCK, seed=2), *block, *suffix], cache)
    assert other.num_reused == 0


def test_outputs_of_all_positions_are_computed_again() -> None:
    model, cache = tiny_model(context=512), PrefixCache(MEBIBYTE)
    ids = text(300)
    read(model, ids, cache)
    prompt = read(model, ids, cache, keep_all=True)
    assert prompt.num_reused == 0
    assert prompt.hidden is not None and len(prompt.hidden) == len(ids)


def test_the_block_that_was_not_used_for_the_longest_time_is_removed() -> None:
    states = TextStates(torch.zeros(1, 1, CPU_BLOCK, 4), torch.zeros(1, 1, CPU_BLOCK, 4))
    size = 2 * states.keys.numel() * 4
    cache = PrefixCache(2 * size)
    first, second, third = (cache.names(text(CPU_BLOCK, seed=seed)) for seed in range(3))
    cache.add(first[0], states)
    cache.add(second[0], states)
    assert len(cache.longest(first, tokens=CPU_BLOCK + 1)) == 1
    cache.add(third[0], states)
    assert cache.size == 2 * size
    assert [len(cache.longest(names, tokens=CPU_BLOCK + 1)) for names in (first, second, third)] == [1, 0, 1]


def test_a_cache_without_memory_stores_nothing() -> None:
    model, cache = tiny_model(context=512), PrefixCache(0)
    ids = text(300)
    read(model, ids, cache)
    assert read(model, ids, cache).num_reused == 0


def test_a_scheduler_reports_reused_tokens_and_gives_the_same_answers() -> None:
    model = tiny_model(context=512)
    model.pack()
    engine = Engine(model, byte_tokenizer())
    ids = text(300)
    request = GenerationRequest(ids, Sampling(max_tokens=8, temperature=1.0, seed=1))
    scheduler = Scheduler(engine, rows=4, prefix_bytes=MEBIBYTE)
    try:
        events = [scheduler.answer(request), scheduler.answer(request)]
    finally:
        scheduler.close()
    reused = [event.reused_tokens for answer in events for event in answer if isinstance(event, PromptEvent)]
    assert reused == [0, 2 * CPU_BLOCK]
    tokens = [[event.score for event in answer if isinstance(event, TokenEvent)] for answer in events]
    (plain,) = engine.generate([ids], request.sampling)
    assert tokens[0] == tokens[1]
    assert [score.id for score in tokens[0]] == list(plain.ids)
    assert [score.logprob for score in tokens[0]] == list(plain.logprobs)
