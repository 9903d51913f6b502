"""Multi-head latent attention: the cache, the absorbed form of decoding, and costs."""

from __future__ import annotations

import pytest
import torch

from vita.infer.batch_invariance import decoding_widths
from vita.infer.prompts import PromptReader
from vita.nn.adapters.attach import attach, merge
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.settings import AdapterSettings
from vita.nn.architecture import Architecture
from vita.nn.cache import KVCache
from vita.nn.init import initialize
from vita.nn.transformer import Transformer

SIZES = {"vocabulary": 64, "width": 32, "layers": 2, "heads": 4, "kv_heads": 4, "feedforward": 48, "context": 64}
LATENT = {"query_rank": 24, "key_value_rank": 16, "unrotated_dim": 12, "rotated_dim": 8, "value_dim": 10}
ARCHITECTURE = Architecture.model_validate(
    {**SIZES, "head_dim": 20, "rotary_dim": 8, "qk_norm": "none", "family": "deepseek_v3", "latent": LATENT}
)


def model_with_weights() -> Transformer:
    model = Transformer(ARCHITECTURE)
    initialize(model, "fan_in", seed=1)
    return model


def test_the_cache_stores_the_latent_vector_and_the_shared_key_only() -> None:
    cache = KVCache(ARCHITECTURE, rows=1, block=16)
    with torch.no_grad():
        model_with_weights()(torch.arange(16)[None], cache=cache)
    stored = sum(part.numel() * part.element_size() for part in (cache.keys, cache.values))
    assert stored == 16 * ARCHITECTURE.cache_bytes_per_token(4) == 16 * 4 * 2 * (16 + 8)
    grouped = ARCHITECTURE.model_copy(update={"latent": None})
    assert grouped.cache_bytes_per_token(4) == 4 * 2 * 4 * (20 + 20)


@torch.no_grad()
def test_a_decoding_step_attends_to_latent_vectors_with_the_numbers_of_the_expanded_form() -> None:
    model, ids = model_with_weights(), torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(1))
    sizes = []

    def attention(queries: torch.Tensor, keys: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append((queries.shape[-1], keys.shape[1]))
        return model.attention(queries, keys, *rest)  # pyright: ignore[reportArgumentType]

    cache = KVCache(ARCHITECTURE, rows=2)
    steps = [model(ids[:, :9], cache=cache, attention=attention)]
    steps += [model(ids[:, index : index + 1], cache=cache, attention=attention) for index in range(9, 20)]
    assert sizes[:2] == [(20, 4)] * 2 and set(sizes[2:]) == {(24, 1)}
    torch.testing.assert_close(torch.cat(steps, 1), model(ids), rtol=1e-4, atol=1e-5)


def test_an_answer_has_the_same_bits_in_every_row_of_a_batch() -> None:
    model = model_with_weights()
    assert decoding_widths(model, 8).invariant
    assert PromptReader(model).widths.invariant


@torch.no_grad()
def test_an_adapter_of_the_latent_projections_decodes_as_its_merged_model() -> None:
    model, ids = model_with_weights(), torch.arange(12)[None]
    settings = AdapterSettings.model_validate({"rank": 2, "target_modules": ["q_a_proj", "kv_b_proj"]})
    attach(model, LoraConfig.of(settings), seed=3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    expected = model(ids)
    cache = KVCache(ARCHITECTURE, rows=1)
    steps = [model(ids[:, index : index + 1], cache=cache) for index in range(12)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-4, atol=1e-5)
    merge(model)
    cache = KVCache(ARCHITECTURE, rows=1)
    steps = [model(ids[:, index : index + 1], cache=cache) for index in range(12)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-4, atol=1e-5)


def test_parameters_and_flops_count_the_projections_of_latent_attention() -> None:
    with torch.device("meta"):
        model = Transformer(ARCHITECTURE)
    assert ARCHITECTURE.parameters() == sum(parameter.numel() for parameter in model.parameters())
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    keys = 2 * (10 + 1) / 2  # per token, in two layers
    scores_and_values = 6 * 4 * (20 + 10) * keys
    assert ARCHITECTURE.flops_per_token(10) == 6 * matrices + scores_and_values


def test_sizes_that_contradict_the_latent_attention_are_refused() -> None:
    with pytest.raises(ValueError, match="`head_dim` of 20"):
        Architecture.model_validate({**ARCHITECTURE.model_dump(), "head_dim": 16})
