"""Adapters and peft: equal logits for the folders of the other program, and refusal of unsupported options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vita.nn import hf
from vita.nn.adapters.attach import merge, trainable
from vita.nn.adapters.config import UNSUPPORTED, LoraConfig
from vita.nn.adapters.files import load_adapter, save_adapter
from vita.spine.errors import ModelError
from vita.spine.model_files import ADAPTER_CONFIG, ModelFiles
from vita.testing import tiny_model

peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]
IDS = torch.randint(0, 259, (2, 11), generator=torch.Generator().manual_seed(1))
CONFIGS: dict[str, dict[str, Any]] = {
    "LoRA": {"target_modules": ["q_proj", "v_proj"]},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 16, "target_modules": "all-linear"},
    "DoRA": {"use_dora": True, "target_modules": "all-linear"},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {"q_proj": 5},
    },
    "modules_to_save": {"target_modules": ["up_proj"], "modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "regular expression": {"target_modules": r".*\.0\.self_attn\..*_proj"},
    "layers": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "excluded modules": {"target_modules": "all-linear", "exclude_modules": ["down_proj"], "lora_dropout": 0.1},
    "bias of the update": {"target_modules": ["q_proj"], "lora_bias": True},
}


def save_base(folder: Path, **changes: Any) -> Path:
    hf.save(tiny_model(**{"tied": False, **changes}), folder)
    return folder


def load_hf_model(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def peft_adapter(base: Path, folder: Path, **options: Any) -> torch.Tensor:
    """Save an adapter of peft with random weights, and return its logits."""
    config = peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, **options})
    model = peft.get_peft_model(load_hf_model(base), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        logits = model(IDS).logits
    model.save_pretrained(folder)
    return logits


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_adapters_of_peft_have_equal_logits_and_can_be_exported_again(tmp_path: Path, options: dict[str, Any]) -> None:
    base = save_base(tmp_path / "base")
    logits = peft_adapter(base, tmp_path / "peft", **options)
    model = hf.load(base)
    base_logits = model(IDS)
    load_adapter(model, ModelFiles(tmp_path / "peft"))
    torch.testing.assert_close(model(IDS), logits, rtol=1e-4, atol=1e-5)
    assert (base_logits - logits).abs().max() > 0.01
    assert all(".lora_" in name or options.get("modules_to_save") for name in trainable(model))
    save_adapter(model, tmp_path / "vita", base=str(base))
    reopened = peft.PeftModel.from_pretrained(load_hf_model(base), tmp_path / "vita").eval()
    torch.testing.assert_close(reopened(IDS).logits, logits, rtol=1e-4, atol=1e-5)
    merge(model)
    torch.testing.assert_close(model(IDS), logits, rtol=1e-4, atol=1e-4)


def refusal(base: Path, folder: Path, **changes: Any) -> str:
    """Return the error for an adapter whose configuration is changed."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelError) as caught:
        load_adapter(hf.load(base), ModelFiles(folder))
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config))
    return str(caught.value)


def test_unsupported_options_are_refused_by_name(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    peft_adapter(base, tmp_path / "peft", target_modules=["q_proj"])
    for name in UNSUPPORTED:
        assert f"{name}: is not supported" in refusal(base, tmp_path / "peft", **{name: {"x": 1}})
    assert "use_something_new: is not supported" in refusal(base, tmp_path / "peft", use_something_new=True)
    for initial in ("pissa", "pissa_niter_16", "olora", "corda", "lora_ga"):
        text = refusal(base, tmp_path / "peft", init_lora_weights=initial)
        assert "init_lora_weights: this initialization changes the weights of the base model" in text
    assert "peft_type: expected 'LORA', got 'IA3'" in refusal(base, tmp_path / "peft", peft_type="IA3")
    assert "lora_A.weight: expected shape (8, 32), got (4, 32)" in refusal(base, tmp_path / "peft", r=8)
    missing = refusal(base, tmp_path / "peft", target_modules=["q_proj", "k_proj"])
    assert "k_proj: has no tensors, and `target_modules` selects it" in missing
    assert LoraConfig.read(ModelFiles(tmp_path / "peft")).rank == 4


def test_low_rank_adapters_of_embeddings_are_refused_by_name(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    peft_adapter(base, tmp_path / "peft", target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(ModelError, match="adapts an embedding with low rank"):
        load_adapter(hf.load(base), ModelFiles(tmp_path / "peft"))
    peft_adapter(base, tmp_path / "head", target_modules=["lm_head", "q_proj"])
    with pytest.raises(ModelError, match="adapts the output head with low rank"):
        load_adapter(hf.load(base), ModelFiles(tmp_path / "head"))


def test_a_tied_head_cannot_be_trained_in_full(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=True)
    peft_adapter(
        save_base(tmp_path / "untied"), tmp_path / "peft", target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    with pytest.raises(ModelError, match="embedding and output head of this model share their weights"):
        load_adapter(hf.load(base), ModelFiles(tmp_path / "peft"))
