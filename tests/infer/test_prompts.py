"""Packed prompts have the keys, values and outputs of single prompts and of the plain model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vita.infer.batch_invariance import BatchWidths
from vita.infer.engine import Engine
from vita.infer.prompts import PromptReader, PromptState
from vita.infer.sampling import Sampling
from vita.nn.transformer import Transformer
from vita.testing import byte_tokenizer, tiny_model


def create_prompts(lengths: list[int]) -> list[PromptState]:
    generator = torch.Generator().manual_seed(0)
    return [
        PromptState(torch.randint(0, 256, (length,), generator=generator).tolist(), keep_all=True) for length in lengths
    ]


def read_alone(model: Transformer, ids: tuple[int, ...]) -> PromptState:
    prompt = PromptState(ids, keep_all=True)
    reader = PromptReader(model)
    if reader.is_short(prompt):
        reader.read([prompt])
    else:
        prompt.read_piece(model)
    return prompt


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [{}, {"heads": 4, "kv_heads": 4}, {"width": 90, "head_dim": 18, "feedforward": 201}])
@torch.inference_mode()
def test_prefill_is_bitwise_equal_alone_and_in_a_pack(sizes: dict[str, int], threads: int) -> None:
    thread_count = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = tiny_model(std=0.3, context=256, **sizes)
        prompts = create_prompts([5, 1, 30, 17, 64, 3, 128, 2])
        reader = PromptReader(model)
        if all(reader.is_short(prompt) for prompt in prompts):
            reader.read(prompts)
        else:  # on this processor, no width of these sizes is invariant: prompts are read separately
            prompts = [read_alone(model, prompt.ids) for prompt in prompts]
        for prompt in prompts:
            single_prompt = read_alone(model, prompt.ids)
            assert prompt.states is not None and prompt.hidden is not None
            assert single_prompt.states is not None and single_prompt.hidden is not None
            assert torch.equal(prompt.hidden, single_prompt.hidden)
            assert torch.equal(prompt.states.keys, single_prompt.states.keys)
            assert torch.equal(prompt.states.values, single_prompt.states.values)
            expected = model.hidden(torch.tensor([prompt.ids]))[0]
            torch.testing.assert_close(prompt.hidden, expected, atol=1e-4, rtol=1e-4)
    finally:
        torch.set_num_threads(thread_count)


@torch.inference_mode()
def test_a_pack_without_an_invariant_width_is_split() -> None:
    model = tiny_model(std=0.3, context=256)
    reader = PromptReader(model)
    measure = reader.widths._measure
    reader.widths = BatchWidths(lambda width: measure(width) if width <= 32 else None, [16])
    widths: list[int] = []
    hidden = model.hidden

    def record_width(ids: torch.Tensor, **options: Any) -> torch.Tensor:
        widths.append(ids.shape[1])
        return hidden(ids, **options)

    pack = create_prompts([20, 9, 31, 4])
    model.hidden = record_width
    assert all(reader.is_short(prompt) for prompt in pack)
    assert not reader.is_short(create_prompts([33])[0])
    widths.clear()
    reader.read(pack)
    assert widths == [32, 32, 8]
    assert all(prompt.is_read for prompt in pack)


@pytest.mark.parametrize("rows", [pytest.param(4, marks=pytest.mark.slow), 64])
def test_prompts_of_any_length_have_the_same_answers_alone_and_in_a_batch(rows: int) -> None:
    engine = Engine(tiny_model(std=0.3, context=256), byte_tokenizer(), rows=rows)
    ids = [list(prompt.ids) for prompt in create_prompts([3, 200, 40, 1, 129, 128, 7, 250, 60, 2])]
    samplings = [Sampling(seed=index, max_tokens=3 + 4 * (index % 3)) for index in range(len(ids))]
    batch_answers = engine.generate(ids, samplings)
    single_answers = [engine.generate([prompt], [sampling])[0] for prompt, sampling in zip(ids, samplings, strict=True)]
    assert batch_answers == single_answers


def test_short_prompts_share_a_pass_and_a_long_prompt_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model(std=0.3, context=256), byte_tokenizer())
    ids = [list(prompt.ids) for prompt in create_prompts([3, 40, 200, 5, 60])]
    engine.generate(ids, Sampling(max_tokens=1))  # measures the widths
    passes: list[tuple[int, ...]] = []
    hidden = engine.model.hidden

    def record_shape(ids: torch.Tensor, **options: Any) -> torch.Tensor:
        passes.append(tuple(ids.shape))
        return hidden(ids, **options)

    monkeypatch.setattr(engine.model, "hidden", record_shape)
    engine.generate(ids, Sampling(max_tokens=1))
    assert passes == [(1, 48), (1, 128), (1, 72), (1, 96)]


def test_prompts_are_prefilled_separately_if_no_width_is_invariant() -> None:
    model = tiny_model(std=0.3, context=256)
    reader = PromptReader(model)
    reader.widths = BatchWidths(lambda width: None, [16])
    assert not any(reader.is_short(prompt) for prompt in create_prompts([3, 40]))


@pytest.mark.parametrize(("period", "is_measured"), [(1, True), (4, False), (3, False), (8, False)])
@torch.inference_mode()
def test_a_product_that_depends_on_the_address_of_its_row_has_no_invariant_width(
    period: int, is_measured: bool
) -> None:
    """A kernel of another processor: one row of each `period` rows is rounded differently."""
    model = tiny_model(std=0.3, context=256)

    def rounded(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        factor = torch.ones(output.shape[1], 1)
        factor[::period] += 2**-20
        return output * factor

    model.get_submodule("model.layers.1.mlp.down_proj").register_forward_hook(rounded)
    assert PromptReader(model).widths.invariant is is_measured


@torch.inference_mode()
def test_the_attention_of_a_pack_reads_aligned_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one key head, the keys of a prompt are a contiguous part of the pack, which is not aligned."""
    model = tiny_model(std=0.3, context=256, heads=1, kv_heads=1, head_dim=18, width=18)
    backend, reader = model.attention, PromptReader(model)
    addresses: list[int] = []

    def record_addresses(*states: Any) -> torch.Tensor:
        addresses.extend(tensor.data_ptr() for tensor in states[:3])
        return backend(*states)

    monkeypatch.setattr(Transformer, "attention", property(lambda model: record_addresses))
    pack = create_prompts([5, 3, 1])
    assert all(reader.is_short(prompt) for prompt in pack)
    addresses.clear()
    reader.read(pack)
    assert len(addresses) == 2 * 3 * 3  # queries, keys and values of three prompts in two layers
    assert all(address % 64 == 0 for address in addresses)
