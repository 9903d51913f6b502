"""Several adapters in one pass: each row equals the merged model of its adapter; rows of the base are unchanged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.nn.test_experts import mixture
from tests.nn.test_latent_attention import ARCHITECTURE, model_with_weights
from vita.infer.decoding_pass import DecodingPass
from vita.infer.row_cache import RowCache
from vita.nn.adapters.attach import attach, merge, reference_copy, trainable
from vita.nn.adapters.batched import BatchedAdapters, changed_modules, computes_by_row, measured_layers
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.pass_rows import BASE, PassRows, adapters_of, one_adapter
from vita.nn.cache import KVCache
from vita.nn.init import initialize
from vita.nn.packed import can_pack
from vita.nn.transformer import Transformer
from vita.testing import tiny_model

IDS = torch.randint(0, 64, (8, 1), generator=torch.Generator().manual_seed(1))
OWNERS = [BASE, 1, 2, 1, 3, BASE, 2, 1]
"""The adapter of each row."""
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
PLAIN: dict[str, Any] = {"rank": 4, "alpha": 8, "target_modules": "all-linear"}
KINDS: dict[str, tuple[dict[str, Any], ...]] = {
    "lora": (PLAIN, {**PLAIN, "rank": 3}, {**PLAIN, "target_modules": ("q_proj", "down_proj")}),
    "variants": ({**PLAIN, "use_rslora": True}, {**PLAIN, "use_dora": True}, {**PLAIN, "lora_bias": True}),
    "patterns": ({**PLAIN, "rank_pattern": {"q_proj": 7}}, {**PLAIN, "layers_to_transform": (1,)}, PLAIN),
    "saved modules": (
        {**PLAIN, "modules_to_save": ("norm", "lm_head")},
        {**PLAIN, "modules_to_save": ("embed_tokens",)},
        {**PLAIN, "target_modules": ("v_proj",), "modules_to_save": ("q_proj",)},
    ),
    "biases": (
        {**PLAIN, "bias": "all"},
        {**PLAIN, "bias": "lora_only", "use_dora": True},
        {**PLAIN, "bias": "all", "lora_bias": True, "use_dora": True},
    ),
}


def adapted_copy(base: Transformer, seed: int, options: dict[str, Any]) -> Transformer:
    """Return a copy that shares the weights of `base`, with an adapter of random values."""
    model = reference_copy(base)
    attach(model, LoraConfig(**options), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(trainable(model).items()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.requires_grad_(False)
    return model


def pass_rows(owners: list[int]) -> PassRows:
    adapters = sorted({*owners} - {BASE})
    rows = {adapter: [row for row, owner in enumerate(owners) if owner == adapter] for adapter in adapters}
    return PassRows.of(len(owners), [(adapter, rows[adapter], 4 if adapter < 3 else 2) for adapter in adapters])


@torch.inference_mode()
def check_rows(base: Transformer, kinds: tuple[dict[str, Any], ...], *, packed: bool = False) -> None:
    """Compare the rows of one pass with the merged models."""
    plain = copy.deepcopy(base)
    if packed:
        base.pack()
    batched = BatchedAdapters(base)
    base_logits = base(IDS)
    expected: dict[int, Tensor] = {BASE: base_logits}
    for adapter, options in enumerate(kinds, start=1):
        batched.add(adapter, adapted_copy(base, adapter, options))
        merged = adapted_copy(plain, adapter, options)
        merge(merged)
        expected[adapter] = merged(IDS)
        assert (expected[adapter] - base_logits).abs().max() > 0.05
    with adapters_of(pass_rows(OWNERS)):
        logits = batched.model(IDS)
        in_one_text = batched.model(IDS.T, documents=torch.arange(8)[None])  # the rows of a pack
    for row, owner in enumerate(OWNERS):
        torch.testing.assert_close(logits[row], expected[owner][row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(in_one_text[0, row], expected[owner][row, 0], rtol=1e-4, atol=1e-4)
        if owner == BASE and not base.architecture.experts:  # passes without a cache compute experts together
            assert torch.equal(logits[row], base_logits[row])
    for adapter in (1, 2, 3):
        with one_adapter(adapter):
            torch.testing.assert_close(batched.model(IDS), expected[adapter], rtol=1e-4, atol=1e-4)
        batched.remove(adapter)
        with one_adapter(adapter):
            assert torch.equal(batched.model(IDS), base_logits)
    assert torch.equal(base(IDS), base_logits)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_each_row_equals_the_merged_model_of_its_adapter(kinds: tuple[dict[str, Any], ...]) -> None:
    check_rows(tiny_model(tied=False, positions="rotary", biases=("qkv", "output", "feedforward")), kinds)


@pytest.mark.skipif(not can_pack(torch.zeros(1, 1)), reason="this build of torch has no oneDNN")
def test_rows_of_packed_weights_equal_the_merged_models() -> None:
    check_rows(tiny_model(tied=False), KINDS["lora"], packed=True)


def test_rows_of_a_mixture_with_adapted_experts_equal_the_merged_models() -> None:
    model = Transformer(mixture(dense_layers=(0,), shared=32).model_copy(update={"layers": 3}))
    initialize(model, "fan_in")
    experts = {"rank": 2, "alpha": 4, "target_modules": ("q_proj",), "target_parameters": EXPERTS}
    check_rows(model, (experts, PLAIN, {**PLAIN, "target_modules": (r"shared_experts.up_proj",)}))


def test_rows_of_latent_attention_equal_the_merged_models() -> None:
    targets = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "up_proj")
    check_rows(model_with_weights(), ({**PLAIN, "target_modules": targets}, PLAIN, {**PLAIN, "use_dora": True}))


@torch.inference_mode()
def test_a_step_of_latent_attention_reads_the_matrix_of_the_adapter_of_each_row() -> None:
    base, ids = model_with_weights(), torch.randint(0, 64, (8, 6), generator=torch.Generator().manual_seed(2))
    batched, options = BatchedAdapters(base), ({**PLAIN, "target_modules": ("kv_b_proj",)}, PLAIN, {**PLAIN, "rank": 2})
    adapted = {adapter: adapted_copy(base, adapter, kind) for adapter, kind in enumerate(options, start=1)}
    for adapter, model in adapted.items():
        batched.add(adapter, model)
    adapted[BASE] = base
    rows = [KVCache(ARCHITECTURE, 1) for _ in OWNERS]
    cache = RowCache(ARCHITECTURE, single=True)
    for row, owner in enumerate(OWNERS):
        adapted[owner](ids[row : row + 1], cache=rows[row])
        cache.put(row, rows[row].text(0))
    step = DecodingPass(cache, dict.fromkeys(range(len(OWNERS)), 1))
    with adapters_of(pass_rows(OWNERS)):
        logits = batched.model(IDS, cache=step, attention=step.attention(base.attention))
    for row, owner in enumerate(OWNERS):
        expected = adapted[owner](IDS[row : row + 1], cache=rows[row])
        torch.testing.assert_close(logits[row], expected[0], rtol=1e-4, atol=1e-4)


def test_an_update_with_a_bias_of_a_projection_of_cached_tokens_is_not_computed_by_row() -> None:
    base = model_with_weights()
    base.requires_grad_(False)
    assert computes_by_row(base, adapted_copy(base, 1, PLAIN))
    assert not computes_by_row(base, adapted_copy(base, 1, {**PLAIN, "lora_bias": True}))


def test_the_changes_of_an_adapter_are_found_by_the_tensors_that_it_does_not_share() -> None:
    base = tiny_model(tied=False, layers=4)
    base.requires_grad_(False)
    options = {
        "rank": 2,
        "target_modules": ("q_proj",),
        "layers_to_transform": (2,),
        "modules_to_save": ("model.norm",),
    }
    adapted = adapted_copy(base, 1, options)
    assert set(changed_modules(base, adapted)) == {"model.layers.2.self_attn.q_proj", "model.norm"}
    assert measured_layers(base, adapted, least=2) == 3
