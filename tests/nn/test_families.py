"""Every model family against transformers: logits, caches, windows, files in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.nn.open_models import MODELS, ids, reference, save
from vita.nn import hf
from vita.nn.cache import KVCache
from vita.nn.families import FAMILIES, read_architecture, weight_map, write_config
from vita.nn.families.weight_map import expert_slices
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError

pytest.importorskip("transformers")

TOLERANCE = 1e-4  # relative to the largest logit, in float32


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 0.1
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < TOLERANCE


@torch.no_grad()
def hf_logits(hf_model: Any, tokens: Tensor) -> Tensor:
    return hf_model(tokens, use_cache=False).logits


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_logits_equal_those_of_transformers_with_and_without_a_cache(name: str, tmp_path: Path) -> None:
    hf_model = save(name, tmp_path)
    model = hf.load(tmp_path)
    limit = min(24, model.architecture.context)
    tokens = ids(limit)
    for length in (1, 3, 5, 6, 7, 8, limit):  # on both sides of every window
        close(model(tokens[:, :length]), hf_logits(hf_model, tokens[:, :length]))
    if model.architecture.rope_depends_on_length:
        return  # cached keys keep the frequencies of a shorter text; see the test of prompts in pieces
    cache = KVCache(model.architecture, rows=2)
    pieces = [model(tokens[:, start:stop], cache=cache) for start, stop in ((0, 4), (4, 11), (11, limit - 1))]
    pieces.append(model(tokens[:, limit - 1 : limit], cache=cache))
    close(torch.cat(pieces, dim=1), hf_logits(hf_model, tokens))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_reopens_in_transformers_with_equal_logits(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    hf_model = save(name, tmp_path / "theirs")
    model = hf.load(tmp_path / "theirs")
    hf.save(model, tmp_path / "plain")
    hf.save_like(model, tmp_path / "like", source=tmp_path / "theirs", config=hf.read_config(tmp_path / "theirs"))
    tokens = ids(min(24, model.architecture.context))
    for folder in ("plain", "like"):
        reopened, report = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / folder, output_loading_info=True, attn_implementation="eager"
        )
        assert not report["missing_keys"] and not report["unexpected_keys"], report
        close(hf_logits(reopened.eval(), tokens), hf_logits(hf_model, tokens))
    assert hf.stored_dtypes(tmp_path / "like") == hf.stored_dtypes(tmp_path / "theirs")


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_and_names_equal_those_of_the_model(name: str) -> None:
    architecture = read_architecture(reference(name).config.to_dict())
    with torch.device("meta"):
        model = Transformer(architecture)
    assert architecture.parameters() == sum(parameter.numel() for parameter in model.parameters())
    module_names = [name for module in weight_map(architecture).modules.values() for name in module.parts]
    parameters = expert_slices(dict(model.named_parameters()))
    assert sorted(module_names) == sorted({parameter.rpartition(".")[0] for parameter in parameters})
    assert read_architecture(write_config(architecture)) == architecture


@pytest.mark.parametrize(
    "name",
    ["qwen3", "gemma2", "gpt2", "gpt_neox", "olmo2", "granite", "mixtral", "qwen2_moe", "dots1", "deepseek_v3-yarn"],
)
def test_gradients_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    from vita.train.losses import language_modelling

    hf_model = save(name, tmp_path)
    hf_model.config.output_router_logits = False
    model, tokens = hf.load(tmp_path), ids()
    loss, _ = language_modelling(model, {"ids": tokens})
    loss.backward()
    logits = hf_model(tokens[:, :-1], use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    vita_gradients = expert_slices({name: grad for name, grad in gradients.items() if grad is not None})
    compared = 0
    for name, parameter in hf_model.named_parameters():
        if parameter.grad is None:
            continue
        for parameter_name, gradient in weight_map(model.architecture).to_own(name, parameter.grad):
            close_enough = (vita_gradients[parameter_name] - gradient).abs().max() <= 2e-4 * gradient.abs().max() + 1e-5
            assert close_enough, parameter_name
            compared += 1
    assert compared > 10


def test_packed_documents_have_the_logits_of_single_documents() -> None:
    """The families include learned positions and attention windows."""
    from vita.nn.attention import positions_within

    documents = torch.tensor([[0] * 9 + [1] * 7 + [2] * 8])
    assert positions_within(documents)[0].tolist() == [*range(9), *range(7), *range(8)]
    for name in ("gpt2", "gemma3", "mistral", "qwen3"):
        model = reference(name)
        architecture = read_architecture(model.config.to_dict())
        transformer = Transformer(architecture)
        state = dict(model.state_dict())
        names = weight_map(architecture)
        weights = {own_name: part for key, tensor in state.items() for own_name, part in names.to_own(key, tensor)}
        transformer.load_state_dict({key: value for key, value in weights.items() if key in transformer.state_dict()})
        tokens = ids(24, rows=1)
        packed = transformer(tokens, documents=documents)
        for start, stop in ((0, 9), (9, 16), (16, 24)):
            close(packed[:, start:stop].detach(), hf_logits(model, tokens[:, start:stop]))


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_moe", "phi3"])
def test_the_bfloat16_error_is_close_to_that_of_transformers(name: str, tmp_path: Path) -> None:
    """Both are compared with the logits in float32: the order of rounding differs, the size of the error does not."""
    hf_model = save(name, tmp_path)
    exact = hf_logits(hf_model, ids())
    rounded = hf.load(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        error = (rounded(ids()).float() - exact).pow(2).mean().sqrt()
    hf_error = (hf_logits(hf_model.bfloat16(), ids()).float() - exact).pow(2).mean().sqrt()
    assert 0 < error < 1.5 * hf_error


def test_old_keys_of_configurations_are_read() -> None:
    config = reference("llama3").config.to_dict()
    scaling = config.pop("rope_parameters")
    old = {
        **config,
        "rope_theta": scaling.pop("rope_theta"),
        "rope_scaling": {**scaling, "type": scaling.pop("rope_type")},
    }
    assert read_architecture(old) == read_architecture(reference("llama3").config.to_dict())
    neox = reference("gpt_neox").config.to_dict()
    del neox["rope_parameters"]
    assert read_architecture({**neox, "rotary_emb_base": 10000, "rotary_pct": 0.25}).rotated == 2


def test_an_unsupported_family_is_refused_with_the_list_of_supported_ones() -> None:
    with pytest.raises(ModelError) as refusal:
        read_architecture({"model_type": "mamba"}, where="folder/config.json")
    message = str(refusal.value)
    assert message.startswith("folder/config.json: model_type") and "'mamba'" in message
    assert all(name in message for name in FAMILIES)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama", {"hidden_act": "relu"}, "hidden_act"),
        ("llama", {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}, "rope_type"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("mistral", {"layer_types": ["chunked_attention"] * 4}, "layer_types"),
        ("phi3-long", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}}, "long_factor"),
    ],
)
def test_settings_that_the_decoder_does_not_compute_are_refused(
    name: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_architecture({**reference(name).config.to_dict(), **change})


def test_a_tensor_of_a_wrong_shape_is_refused_with_its_name_in_the_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save("phi3", tmp_path)
    weights = load_file(tmp_path / hf.WEIGHTS)
    weights["model.layers.0.self_attn.qkv_proj.weight"] = torch.zeros(60, 32)
    save_file(weights, tmp_path / hf.WEIGHTS)
    with pytest.raises(ModelError, match=r"model\.layers\.0\.self_attn\.qkv_proj\.weight"):
        hf.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "phi3"
