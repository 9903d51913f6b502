"""Adapters of other model families: fused, transposed and renamed modules in peft, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nn.open_models import LATENT
from vita.nn import hf
from vita.nn.adapters.attach import adapted_linears, attach, merge, trainable
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.files import load_adapter, save_adapter
from vita.spine.model_files import ModelFiles

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SIZES, "num_key_value_heads": 2, "attention_bias": True}),
    "qwen2": ("Qwen2Config", {**SIZES, "num_key_value_heads": 2}),
    "phi3": ("Phi3Config", {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64}),
    "gpt_neox": ("GPTNeoXConfig", SIZES),
    "deepseek_v3": ("DeepseekV3Config", {**SIZES, **LATENT}),
}
TARGETS: dict[str, Any] = {
    "deepseek_v3": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA with biases": {"use_rslora": True, "bias": "all"},
    "DoRA": {"use_dora": True},
    "biases of targets": {"bias": "lora_only"},
}
IDS = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(1))


def save_base(family: str, folder: Path) -> Path:
    kind, sizes = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def load_hf_model(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def randomize(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_peft_has_equal_logits_in_every_family(
    tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    base = save_base(family, tmp_path / "base")
    targets = TARGETS.get(family, "all-linear")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, **options)
    model = peft.get_peft_model(load_hf_model(base), config).eval()
    randomize(parameter for parameter in model.parameters() if parameter.requires_grad)
    logits = model(IDS).logits.detach()
    model.save_pretrained(tmp_path / "peft")
    vita_model = hf.load(base)
    load_adapter(vita_model, ModelFiles(tmp_path / "peft"))
    torch.testing.assert_close(vita_model(IDS), logits, rtol=1e-4, atol=1e-4)
    save_adapter(vita_model, tmp_path / "vita", base=str(base))
    reopened = peft.PeftModel.from_pretrained(load_hf_model(base), tmp_path / "vita").eval()
    torch.testing.assert_close(reopened(IDS).logits, logits, rtol=1e-4, atol=1e-4)
    merge(vita_model)
    hf.save(vita_model, tmp_path / "merged")
    torch.testing.assert_close(load_hf_model(tmp_path / "merged")(IDS).logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "up_proj")], ids=str)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("family", ["phi3", "gpt2", "gpt_neox"])
def test_separate_updates_of_fused_modules_are_joined_for_peft(
    tmp_path: Path, family: str, options: dict[str, Any], targets: Any
) -> None:
    base = save_base(family, tmp_path / "base")
    vita_model = hf.load(base)
    patterns = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 5.0}}
    attach(vita_model, LoraConfig(rank=3, alpha=6.0, target_modules=targets, **patterns, **options))
    randomize(trainable(vita_model).values())
    logits = vita_model(IDS).detach()
    ranks = {name.rpartition(".")[2]: layer.rank for name, layer in adapted_linears(vita_model).items()}
    assert ranks["q_proj"] == 3
    save_adapter(vita_model, tmp_path / "vita", base=str(base))
    model = peft.PeftModel.from_pretrained(load_hf_model(base), tmp_path / "vita").eval()
    torch.testing.assert_close(model(IDS).logits, logits, rtol=1e-4, atol=1e-4)
    reopened = hf.load(base)
    load_adapter(reopened, ModelFiles(tmp_path / "vita"))
    torch.testing.assert_close(reopened(IDS), logits, rtol=1e-4, atol=1e-4)
