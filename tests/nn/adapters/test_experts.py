"""Adapters on the matrices of experts against peft (`target_parameters`), merging, and a quantized base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nn.open_models import ids, save
from vita.nn import hf
from vita.nn.adapters.attach import BaseQuantization, attach, disabled, merge, trainable
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.files import load_adapter, save_adapter
from vita.nn.adapters.settings import AdapterSettings
from vita.nn.cache import KVCache
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFiles
from vita.testing import tiny_model

EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def adapted(folder: Path, **settings: Any) -> Transformer:
    """Return the model in a folder with a new adapter of random values."""
    model = hf.load(folder)
    values = {"rank": 3, "alpha": 5, "target_parameters": EXPERTS, **settings}
    quantization = BaseQuantization(settings.get("quantization", "none"))
    attach(model, LoraConfig.of(AdapterSettings.model_validate(values)), quantization=quantization)
    for index, (_, parameter) in enumerate(sorted(trainable(model).items())):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    return model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("targets", [EXPERTS, EXPERTS[:1], EXPERTS[1:]])
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
@torch.no_grad()
def test_adapters_of_experts_are_exchanged_with_peft_with_equal_logits(
    name: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    theirs = save(name, tmp_path / "base")
    ours = adapted(tmp_path / "base", target_parameters=targets, target_modules=["q_proj"])
    save_adapter(ours, tmp_path / "ours", base=str(tmp_path / "base"))
    read_by_peft = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    logits = ours(ids())
    plain = hf.load(tmp_path / "base")(ids())
    assert (logits - plain).abs().max() > 0.05
    expected = read_by_peft(ids(), use_cache=False).logits
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    read_by_peft.save_pretrained(tmp_path / "theirs")
    back = hf.load(tmp_path / "base")
    load_adapter(back, ModelFiles(tmp_path / "theirs"))
    assert torch.allclose(back(ids()), logits, atol=1e-5)


@torch.no_grad()
def test_a_merged_adapter_of_experts_gives_the_same_logits_with_and_without_a_cache(tmp_path: Path) -> None:
    save("qwen3_moe", tmp_path)
    model, tokens = adapted(tmp_path), ids()
    before = model(tokens)
    cached = model(tokens, cache=KVCache(model.architecture, rows=2))
    torch.testing.assert_close(cached, before, rtol=1e-4, atol=1e-4)
    with disabled(model):
        torch.testing.assert_close(model(tokens), hf.load(tmp_path)(tokens))
    merge(model)
    torch.testing.assert_close(model(tokens), before, rtol=1e-4, atol=1e-4)
    hf.save(model, tmp_path / "merged")
    torch.testing.assert_close(hf.load(tmp_path / "merged")(tokens), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_base_of_a_mixture_is_smaller_and_has_gradients_of_its_dense_values(
    kind: str, tmp_path: Path
) -> None:
    from vita.design.tuning_memory import weight_bytes
    from vita.nn.adapters.attach import dequantize_linears

    save("qwen3_moe", tmp_path, moe_intermediate_size=64)
    gradients = []
    for dense in (False, True):
        model = adapted(tmp_path, quantization=kind)
        if not dense:
            assert weight_bytes(model) < weight_bytes(adapted(tmp_path))
        else:
            dequantize_linears(model)
        model(ids()).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in trainable(model).items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)


def test_experts_of_a_dense_model_are_refused_as_targets() -> None:
    settings = AdapterSettings.model_validate({"target_parameters": EXPERTS})
    with pytest.raises(ModelError, match=r"adapter\.target_parameters: selects no parameter"):
        attach(tiny_model(), LoraConfig.of(settings))
    with pytest.raises(ValueError, match="`use_dora` cannot be combined"):
        AdapterSettings.model_validate({"type": "dora", "target_parameters": EXPERTS})
