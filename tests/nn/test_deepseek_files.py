"""Files of DeepSeek-V3: layers for multi-token prediction, and weights in float8 with a scale per block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nn.open_models import ids, save
from tests.stages.test_adapt import context
from vita.nn import hf
from vita.spine.config import build
from vita.spine.errors import ModelError
from vita.stages import adopt
from vita.testing import byte_tokenizer

pytest.importorskip("transformers")


def rewrite(folder: Path, weights: dict[str, torch.Tensor], **config: Any) -> None:
    from safetensors.torch import save_file

    save_file(weights, folder / hf.WEIGHTS, metadata={"format": "pt"})
    values = json.loads((folder / hf.CONFIG).read_text())
    (folder / hf.CONFIG).write_text(json.dumps({**values, **config}))


@torch.no_grad()
def test_a_layer_for_multi_token_prediction_is_skipped_with_a_note_and_not_saved(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    source = tmp_path / "source"
    save("deepseek_v3", source, vocab_size=272)
    expected = hf.load(source)(ids())
    weights = load_file(source / hf.WEIGHTS)
    extra = {"model.layers.4.eh_proj.weight": torch.ones(32, 64), "model.layers.4.enorm.weight": torch.ones(32)}
    rewrite(source, {**weights, **extra}, num_nextn_predict_layers=1)
    byte_tokenizer().save(source)
    model = hf.load(source)
    assert torch.equal(model(ids()), expected)
    hf.save_successor(model, tmp_path / "saved", source=source)
    assert json.loads((tmp_path / "saved" / hf.CONFIG).read_text())["num_nextn_predict_layers"] == 0
    assert load_file(tmp_path / "saved" / hf.WEIGHTS).keys() == weights.keys()
    events: list[Any] = []
    settings = build(adopt.Config, {"model": str(source)}, where="adopt")
    adopt.run(settings, adopt.Inputs(), context(tmp_path / "scratch", events))
    assert "2 tensors of layers for multi-token prediction are not used" in str(events)


@torch.no_grad()
def test_weights_in_float8_with_a_scale_per_block_are_converted(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save("deepseek_v3", tmp_path)
    weights, block = load_file(tmp_path / hf.WEIGHTS), 16
    stored: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim == 1 or "proj" not in name:
            stored[name] = weight
            continue
        rows, columns = (-(-size // block) for size in weight.shape)
        scales = torch.rand(rows, columns, generator=torch.Generator().manual_seed(len(name))) + 0.5
        factors = scales.repeat_interleave(block, 0).repeat_interleave(block, 1)[: weight.shape[0], : weight.shape[1]]
        stored[name] = (weight / factors).to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = scales
        weights[name] = (stored[name].float() * factors).bfloat16().float()
    quantization = {"quant_method": "fp8", "weight_block_size": [block, block], "fmt": "e4m3"}
    rewrite(tmp_path, stored, quantization_config=quantization)
    model = hf.load(tmp_path)
    logits = model(ids())
    hf.save_successor(model, tmp_path / "saved", source=tmp_path)
    config = json.loads((tmp_path / "saved" / hf.CONFIG).read_text())
    assert "quantization_config" not in config
    name = "model.layers.1.self_attn.kv_b_proj.weight"
    saved = load_file(tmp_path / "saved" / hf.WEIGHTS)
    assert saved.keys() == weights.keys() and saved[name].dtype == torch.bfloat16
    assert torch.equal(saved[name].float(), weights[name])
    assert torch.equal(hf.load(tmp_path / "saved")(ids()), logits)
    rewrite(tmp_path, stored, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="quantization_config"):
        hf.load(tmp_path)
    rewrite(tmp_path, {name: value for name, value in stored.items() if "q_a_proj.weight_scale" not in name},
            quantization_config=quantization)  # fmt: skip
    with pytest.raises(ModelError, match=r"q_a_proj\.weight_scale_inv"):
        hf.load(tmp_path)
