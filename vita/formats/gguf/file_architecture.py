"""The architecture in the header of a GGUF file: the inverse of `vita.formats.gguf.architectures`.

llama.cpp names graphs, not families: the family with the switches of the file is chosen.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import ValidationError

from vita.formats.gguf.reader import GgufFile
from vita.nn.architecture import Architecture
from vita.spine.errors import ModelError

_FAMILIES = {
    "llama": "llama", "granite": "granite", "smollm3": "smollm3", "qwen2": "qwen2", "qwen3": "qwen3",
    "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe",
    "dots1": "dots1", "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3_text", "olmo2": "olmo2",
    "phi3": "phi3", "gpt2": "gpt2", "gptneox": "gpt_neox",
}  # fmt: skip
_GEMMA = ("gemma", "gemma2", "gemma3")


def read_architecture_of_file(file: GgufFile) -> Architecture:
    """Return the architecture; raise `ModelError` for a graph or a setting that is not supported."""
    graph = file.architecture
    if graph not in _FAMILIES:
        supported = ", ".join(_FAMILIES)
        raise ModelError(f"{file.path}: general.architecture", expected=f"one of {supported}", got=graph)
    values = {**_sizes(file), **_switches(file), **_rope(file), **_experts(file)}
    try:
        return Architecture.model_validate(values)
    except ValidationError as error:
        reason = error.errors()[0]
        raise ModelError(str(file.path), f"{'.'.join(map(str, reason['loc']))}: {reason['msg']}") from None


def _sizes(file: GgufFile) -> dict[str, Any]:
    width, heads = int(file.require("embedding_length")), int(file.require("attention.head_count"))
    vocabulary = [int(size) for size in file.tensors["token_embd.weight"].shape][-1]
    return {
        "vocabulary": vocabulary, "width": width, "layers": int(file.require("block_count")), "heads": heads,
        "kv_heads": int(file.of("attention.head_count_kv") or heads),
        "head_dim": int(file.of("attention.key_length") or width // heads),
        "feedforward": int(file.require("feed_forward_length")), "context": int(file.require("context_length")),
        "norm_eps": _rounded(file.of("attention.layer_norm_rms_epsilon") or file.of("attention.layer_norm_epsilon")),
        "tied": "output.weight" not in file.tensors,
    }  # fmt: skip


def _switches(file: GgufFile) -> dict[str, Any]:
    graph = file.architecture
    family = _FAMILIES[graph]
    values: dict[str, Any] = {"family": family, "qk_norm": _qk_norm(file)}
    values["biases"] = tuple(name for name, tensor in _BIASES.items() if f"blk.0.{tensor}.bias" in file.tensors)
    if graph in ("gpt2", "gptneox"):
        values |= {"norm": "layer", "gated": False, "activation": "gelu_tanh" if graph == "gpt2" else "gelu",
                   "parallel": bool(file.of("use_parallel_residual"))}  # fmt: skip
        fused = ("qkv",) if "blk.0.attn_qkv.bias" in file.tensors else ()
        values["biases"] = (*fused, *values["biases"])
    if graph == "gpt2":
        values["positions"] = "learned"
    if graph in _GEMMA:
        values |= {"norm_offset": 1, "activation": "gelu_tanh",
                   "embedding_scale": math.sqrt(file.require("embedding_length"))}  # fmt: skip
    if graph in ("gemma2", "gemma3"):
        values["norm_position"] = "both"
        values["attention_scale"] = _gemma_scale(file)
    if graph == "olmo2":
        values["norm_position"] = "after"
        if file.of("attention.sliding_window"):
            values["family"] = "olmo3"
    return values | _windows(file) | _multipliers(file)


_BIASES = {"qkv": "attn_q", "output": "attn_output", "feedforward": "ffn_up"}


def _gemma_scale(file: GgufFile) -> float:
    heads, width = int(file.require("attention.head_count")), int(file.require("embedding_length"))
    largest = {"gemma2": 46, "gemma3": 62}[file.architecture]
    size = width / heads if file.require("block_count") == largest else file.of("attention.key_length") or width / heads
    return float(size) ** -0.5


def _qk_norm(file: GgufFile) -> str:
    if "blk.0.attn_q_norm.weight" not in file.tensors:
        return "none"
    return "projection" if file.architecture == "olmo2" else "head"


def _windows(file: GgufFile) -> dict[str, Any]:
    graph = file.architecture
    period = {"gemma2": 2, "gemma3": 6, "olmo2": 4}.get(graph)
    window = file.of("attention.sliding_window")
    layers = range(int(file.require("block_count")))
    if graph == "smollm3":
        return {"unrotated_layers": tuple(layer for layer in layers if (layer + 1) % 4 == 0)}
    if not window or period is None:
        return {}
    return {"window": int(window), "window_layers": tuple(layer for layer in layers if (layer + 1) % period)}


def _multipliers(file: GgufFile) -> dict[str, Any]:
    values: dict[str, Any] = {
        "attention_softcap": file.of("attn_logit_softcapping"), "logit_softcap": file.of("final_logit_softcapping"),
    }  # fmt: skip
    if file.architecture == "granite":
        logit = file.of("logit_scale")
        values |= {
            "embedding_scale": file.of("embedding_scale"), "residual_scale": file.of("residual_scale"),
            "logit_scale": 1 / logit if logit else None, "attention_scale": file.of("attention.scale"),
        }  # fmt: skip
    return {name: _rounded(value) for name, value in values.items() if value}


def _rope(file: GgufFile) -> dict[str, Any]:
    if file.architecture == "gpt2":
        return {}
    heads = int(file.require("attention.head_count"))
    size = int(file.of("attention.key_length") or file.require("embedding_length") // heads)
    rotated = int(file.of("rope.dimension_count") or size)
    values: dict[str, Any] = {"rope_base": _rounded(file.of("rope.freq_base") or 10_000.0)}
    if rotated != size:
        values["rotary_dim"] = rotated
    if file.architecture == "gemma3":
        values["window_rope_base"] = _rounded(file.of("rope.freq_base_swa") or 10_000.0)
    scaling = _scaling(file, rotated, float(values["rope_base"]))
    return values | ({"rope_scaling": scaling} if scaling else {})


def _scaling(file: GgufFile, rotated: int, base: float) -> dict[str, Any] | None:
    kind, factor = file.of("rope.scaling.type"), file.of("rope.scaling.factor")
    original = int(file.of("rope.scaling.original_context_length") or file.require("context_length"))
    if "rope_factors_long.weight" in file.tensors:
        lists = {name: tuple(map(float, file.values(f"rope_factors_{name}.weight"))) for name in ("long", "short")}
        return {"type": "longrope", "factor": file.require("context_length") / original, "original_context": original,
                "magnitude": float(file.of("rope.scaling.attn_factor") or 1.0),
                "long_factors": lists["long"], "short_factors": lists["short"]}  # fmt: skip
    if "rope_freqs.weight" in file.tensors:
        return _llama3(file, file.values("rope_freqs.weight"), rotated, base)
    if kind in (None, "none") or not factor or factor == 1:
        return None
    if kind == "linear":
        return {"type": "linear", "factor": _rounded(factor), "original_context": original}
    if kind == "yarn":
        magnitude = float(file.of("rope.scaling.attn_factor") or 1.0) * (1 + 0.1 * math.log(factor))
        return {"type": "yarn", "factor": _rounded(factor), "original_context": original, "magnitude": magnitude,
                "beta_fast": _rounded(file.of("rope.scaling.yarn_beta_fast") or 32.0),
                "beta_slow": _rounded(file.of("rope.scaling.yarn_beta_slow") or 1.0)}  # fmt: skip
    raise ModelError(f"{file.path}: rope.scaling.type", expected="linear or yarn", got=kind)


def _llama3(file: GgufFile, divisors: np.ndarray, rotated: int, base: float) -> dict[str, Any]:
    """Return the `llama3` scaling with these divisors: its published settings are tried against them."""
    from vita.formats.gguf.architectures import rope_divisors

    factor = _rounded(float(divisors.max()))
    for original in (8192, *(2**power for power in range(4, 18))):
        scaling = {"type": "llama3", "factor": factor, "original_context": original}
        probe = Architecture.model_validate(
            {"vocabulary": 2, "width": rotated, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": rotated,
             "feedforward": 1, "context": 1, "rope_base": base, "rope_scaling": scaling}
        )  # fmt: skip
        if np.allclose(rope_divisors(probe)["rope_freqs.weight"], divisors, rtol=1e-4):
            return scaling
    raise ModelError(f"{file.path}: rope_freqs", "the divisors of the rotary frequencies follow no known rule")


def _experts(file: GgufFile) -> dict[str, Any]:
    count = file.of("expert_count")
    if not count:
        return {}
    width = file.of("expert_feed_forward_length") or file.require("feed_forward_length")
    graph = file.architecture
    experts: dict[str, Any] = {
        "count": int(count), "active": int(file.require("expert_used_count")), "feedforward": int(width),
    }  # fmt: skip
    if graph == "llama":
        return {"experts": {**experts, "precision": "weights"}, "family": "mixtral"}
    if graph == "qwen2moe":
        shared = file.tensors["blk.0.ffn_up_shexp.weight"].shape
        experts |= {"normalized": False, "shared": int(shared[-1]), "shared_gate": True}
    if graph == "dots1":
        experts |= _sigmoid_experts(file, int(width))
    return {"experts": experts}


def _sigmoid_experts(file: GgufFile, width: int) -> dict[str, Any]:
    """Return the settings of the mixture of DeepSeek-V3."""
    return {
        "router": "sigmoid", "precision": "float32", "normalized": bool(file.of("expert_weights_norm")),
        "scale": _rounded(float(file.of("expert_weights_scale") or 1.0)),
        "groups": int(file.of("expert_group_count") or 1),
        "active_groups": int(file.of("expert_group_used_count") or 1),
        "shared": width * int(file.of("expert_shared_count") or 0),
        "dense_layers": tuple(range(int(file.of("leading_dense_block_count") or 0))),
    }  # fmt: skip


def _rounded(value: Any) -> Any:
    """Return a 32-bit decimal as the shortest number that it stands for, such as 1e-6."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
