"""Tiny encoders with random weights, made by transformers, for comparison with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
CUT = {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert": ("modernbert", CUT),
    "modernbert-odd-window": ("modernbert", {**CUT, "local_attention": 7}),
    "modernbert-biases": (
        "modernbert",
        {
            **CUT,
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
            "decoder_bias": False,
            "tie_word_embeddings": False,
            "hidden_activation": "silu",
        },
    ),
    "modernbert-layers": (
        "modernbert",
        {**CUT, "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]},
    ),
    "bert": ("bert", {}),
    "bert-tanh": ("bert", {"hidden_act": "gelu_new", "type_vocab_size": 3}),
}


def encoder(name: str, *, auto: str = "AutoModelForMaskedLM", **changes: Any) -> Any:
    """Return an encoder of transformers with random weights, in float32."""
    import transformers

    family, extra = ENCODERS[name]
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **extra, **changes})
    torch.manual_seed(1)
    model = getattr(transformers, auto).from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            is_norm = "norm" in parameter_name.lower() and parameter_name.endswith("weight")
            spread = 0.3 if parameter.ndim > 1 else 0.2
            parameter.copy_((1.0 if is_norm else 0.0) + spread * torch.randn_like(parameter))
        model.tie_weights()
    return model.eval()


def save(name: str, folder: Path, **changes: Any) -> Any:
    """Save an encoder to a folder, and return it."""
    model = encoder(name, **changes)
    model.save_pretrained(folder)
    return model
