"""Tiny models of every family with random weights, made by transformers, for comparison with the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "vocab_size": 64,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 1e4, **parameters}}


LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [2.0, 4.0], "partial_rotary_factor": 0.5}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "first_k_dense_replace": 4,
    "num_nextn_predict_layers": 0,
}
DEEPSEEK_EXPERTS = {
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"head_dim": 12}),
    "llama3": (
        "llama",
        {
            "head_dim": 64,
            **rope(
                rope_type="llama3",
                rope_theta=5e5,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        },
    ),
    "llama-linear": ("llama", rope(rope_type="linear", factor=4.0)),
    "llama-dynamic": ("llama", {"max_position_embeddings": 10, **rope(rope_type="dynamic", factor=4.0)}),
    "llama-yarn": (
        "llama",
        {"head_dim": 32, **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)},
    ),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": 5}),
    "mistral-full": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    "qwen3": ("qwen3", {"head_dim": 12, "tie_word_embeddings": True}),
    "qwen3-biases": ("qwen3", {"head_dim": 12, "attention_bias": True}),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "head_dim": 12,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "mlp_only_layers": [1],
        },
    ),
    "qwen2_moe": (
        "qwen2_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
            "mlp_only_layers": [0],
        },
    ),
    "dots1": (
        "dots1",
        {
            "head_dim": 12,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "n_shared_experts": 2,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "first_k_dense_replace": 1,
        },
    ),
    "gemma": ("gemma", {"head_dim": 12}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 12,
            "sliding_window": 5,
            "query_pre_attn_scalar": 9,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 9, "num_hidden_layers": 7},
    ),
    "phi3": ("phi3", {"sliding_window": 7}),
    "phi3-long": ("phi3", {"original_max_position_embeddings": 16, **rope(**LONG)}),
    "phi3-short": ("phi3", {"original_max_position_embeddings": 48, **rope(**LONG)}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 5}),
    "smollm3": ("smollm3", {}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.0156,
        },
    ),
    "deepseek_v3": ("deepseek_v3", {**LATENT, **DEEPSEEK_EXPERTS}),
    "deepseek_v3-plain": (
        "deepseek_v3",
        {
            **LATENT,
            **DEEPSEEK_EXPERTS,
            "q_lora_rank": None,
            "rope_interleave": False,
            "v_head_dim": 24,
            "attention_bias": True,
            "norm_topk_prob": False,
            "n_shared_experts": 2,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "deepseek_v3-yarn": (
        "deepseek_v3",
        {
            **LATENT,
            **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=1.5),
        },
    ),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "gpt2": ("gpt2", GPT2),
}


def reference(name: str, **changes: Any) -> Any:
    """Return the model of transformers with random weights, in float32."""
    import transformers

    family, extra = MODELS[name]
    sizes = extra if family == "gpt2" else {**SIZES, **extra}
    config = transformers.AutoConfig.for_model(family, **{**sizes, **changes})
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            is_norm = "norm" in parameter_name or "ln_" in parameter_name
            center = 1.0 if is_norm and parameter_name.endswith("weight") and not family.startswith("gemma") else 0.0
            spread = 0.3 if parameter.ndim > 1 else 0.2
            parameter.copy_(center + spread * torch.randn_like(parameter))
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * torch.randn_like(buffer))
        model.tie_weights()
    return model.eval()


def save(name: str, folder: Path, **changes: Any) -> Any:
    """Save a model to a folder, and return it."""
    model = reference(name, **changes)
    model.save_pretrained(folder)
    return model


def ids(length: int = 24, rows: int = 2, vocabulary: int = 64) -> Tensor:
    return torch.randint(3, vocabulary, (rows, length), generator=torch.Generator().manual_seed(7))
