"""Packed weights: the same products and adapters, the same bits for every number of rows, and the way back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from vita.infer.batch_invariance import decoding_widths
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.nn.adapters.attach import attach
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.layers import AdaptedLinear
from vita.nn.packed import FASTEST_ROWS, can_pack, dense, packed, product
from vita.testing import byte_tokenizer, tiny_model

needs_packing = pytest.mark.skipif(not can_pack(torch.zeros(1, 1)), reason="this build of torch has no oneDNN")


@needs_packing
@pytest.mark.parametrize(("outputs", "inputs"), [(33, 70), (384, 96), (96, 384), (512, 256)])
def test_packed_products_equal_plain_products(outputs: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)
    states = torch.randn(2, 5, inputs, generator=generator)
    expected = torch.nn.functional.linear(states.double(), weight.double(), bias.double())
    result = product(states, packed(weight), bias)
    assert result.shape == (2, 5, outputs)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-4)


@needs_packing
def test_a_packed_weight_is_restored_exactly() -> None:
    weight = torch.randn(33, 70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dense(packed(weight)), weight)
    assert dense(weight) is weight


@needs_packing
@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_model_has_the_logits_of_the_model(tied: bool) -> None:
    model = tiny_model(tied=tied)
    ids = torch.arange(24).view(2, 12)
    with torch.inference_mode():
        expected = model(ids)
        duplicate = copy.deepcopy(model)
        duplicate.pack()
        result = duplicate(ids)
    assert duplicate.get_submodule("model.layers.0.self_attn.q_proj").weight.is_mkldnn
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@needs_packing
def test_steps_of_packed_models_have_at_least_the_fastest_number_of_rows() -> None:
    model = tiny_model()
    assert decoding_widths(model, 1).smallest(1) == 1
    model.pack()
    widths = decoding_widths(model, 16)
    assert widths.invariant
    assert widths.smallest(1) == FASTEST_ROWS
    assert widths.smallest(FASTEST_ROWS) == FASTEST_ROWS
    assert decoding_widths(model, 1).smallest(1) == FASTEST_ROWS
    not_invariant = decoding_widths(model, 16, invariant=False)
    assert [not_invariant.smallest(rows) for rows in (1, 7)] == [FASTEST_ROWS, 7]


def test_an_answer_that_is_alone_for_a_step_has_the_bits_of_a_batch(tmp_path: Path) -> None:
    hf.save(tiny_model(context=128), tmp_path)
    byte_tokenizer().save(tmp_path)
    engine = Engine.open(tmp_path, packed=True)
    prompts = [engine.text_ids("abc" * count) for count in (1, 2, 30)]
    samplings = [Sampling(max_tokens=tokens, temperature=1.0, seed=5) for tokens in (3, 20, 40)]
    batch = engine.generate(prompts, samplings)  # the last steps have a single answer
    for prompt, sampling, together in zip(prompts, samplings, batch, strict=True):
        (alone,) = engine.generate([prompt], sampling)
        assert (alone.ids, alone.logprobs) == (together.ids, together.logprobs)


@needs_packing
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ("lm_head", "norm")}, {"bias": "all"}])
def test_adapters_on_a_packed_model_compute_the_same(options: dict[str, Any]) -> None:
    plain, ids = tiny_model(tied=False), torch.arange(24).view(2, 12)
    packed_model = copy.deepcopy(plain)
    packed_model.pack()
    config = LoraConfig(rank=4, alpha=8, target_modules=("q_proj", "down_proj"), **options)
    results = []
    for model in (plain, packed_model):
        attach(model, config, seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and not name.endswith("lora_A.weight"):
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            results.append(model(ids))
    assert isinstance(packed_model.get_submodule("model.layers.0.self_attn.q_proj"), AdaptedLinear)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
