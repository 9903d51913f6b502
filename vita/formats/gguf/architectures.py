"""Model families in llama.cpp: names of architectures, metadata keys, and what their graphs do not compute.

`describe(architecture)` returns the metadata and notes on differences; a model whose answers llama.cpp cannot reproduce
within its context is refused with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vita.formats.gguf.latent import latent_metadata, refuse_latent
from vita.nn.architecture import Architecture, Experts, RopeScaling
from vita.spine.errors import ModelError


@dataclass(frozen=True)
class Graph:
    """A graph of llama.cpp: what it assumes about a model of the family."""

    name: str
    """The value of `general.architecture`."""
    rotates_neighbours: bool = False
    """Rotary positions rotate neighbouring numbers: the rows of queries and keys are permuted in the file."""
    fused_qkv: bool = False
    """Queries, keys and values are one tensor."""
    fused_gate: bool = False
    """Gate and up projection are one tensor."""
    window_period: int | None = None
    """Period of the pattern of layers with a window; None where the graph has no windows."""
    attention_scale_key: bool = False
    """The graph reads the scale of attention from the metadata."""
    normalizes_experts: bool | None = True
    """The graph divides the weights of the active experts by their sum; None where the metadata decides."""
    dense_first: bool = False
    """The first layers may have an ordinary feed-forward network instead of experts."""


GRAPHS: dict[str, Graph] = {
    "llama": Graph("llama", rotates_neighbours=True),
    "mistral": Graph("llama", rotates_neighbours=True),
    "mixtral": Graph("llama", rotates_neighbours=True),
    "granite": Graph("granite", rotates_neighbours=True, attention_scale_key=True),
    "smollm3": Graph("smollm3", rotates_neighbours=True),
    "qwen2": Graph("qwen2"),
    "qwen3": Graph("qwen3"),
    "qwen2_moe": Graph("qwen2moe", normalizes_experts=False),
    "qwen3_moe": Graph("qwen3moe"),
    "dots1": Graph("dots1", normalizes_experts=None, dense_first=True),
    "deepseek_v3": Graph("deepseek2", normalizes_experts=None, dense_first=True),
    "gemma": Graph("gemma"),
    "gemma2": Graph("gemma2", window_period=2),
    "gemma3_text": Graph("gemma3", window_period=6),
    "olmo2": Graph("olmo2"),
    "olmo3": Graph("olmo2", window_period=4),
    "phi3": Graph("phi3", fused_qkv=True, fused_gate=True),
    "gpt2": Graph("gpt2", fused_qkv=True),
    "gpt_neox": Graph("gptneox", fused_qkv=True),
}
"""Family of Vita -> graph of llama.cpp."""


@dataclass(frozen=True)
class Description:
    """Metadata of an architecture, and notes for the user."""

    graph: Graph
    metadata: dict[str, Any]
    """Key without the name of the architecture -> value."""
    notes: tuple[str, ...] = ()


def graph_of(architecture: Architecture) -> Graph:
    """Return the graph that computes a family; raise `ModelError` if llama.cpp has none."""
    if architecture.family not in GRAPHS:
        supported = ", ".join(GRAPHS)
        hint = f"the families that can be exported are {supported}"
        raise ModelError("export to GGUF", f"llama.cpp has no graph for `{architecture.family}`", hint=hint)
    return GRAPHS[architecture.family]


def describe(architecture: Architecture) -> Description:
    """Return the metadata of an architecture; raise `ModelError` for what llama.cpp does not compute."""
    graph = graph_of(architecture)
    _refuse_unsupported(architecture, graph)
    notes: list[str] = []
    context = architecture.context
    if architecture.window_layers and graph.window_period is None:
        window = architecture.window or context
        context = min(context, window)
        if window < architecture.context:
            notes.append(
                f"llama.cpp does not apply the window of {window} tokens of this family, so the file declares a "
                f"context of {window} tokens; longer texts would give other answers"
            )
    metadata: dict[str, Any] = {
        "context_length": context, "embedding_length": architecture.width, "block_count": architecture.layers,
        "feed_forward_length": architecture.feedforward, "vocab_size": architecture.vocabulary,
        "attention.head_count": architecture.heads, "attention.head_count_kv": architecture.kv_heads,
        "attention.key_length": architecture.head_dim, "attention.value_length": architecture.head_dim,
    }  # fmt: skip
    epsilon = "layer_norm_rms_epsilon" if architecture.norm == "rms" else "layer_norm_epsilon"
    metadata[f"attention.{epsilon}"] = float(architecture.norm_eps)
    if architecture.positions == "rotary":
        metadata |= _rope(architecture, notes)
    metadata |= {**_windows(architecture, graph), **_multipliers(architecture, graph), **_experts(architecture)}
    metadata |= latent_metadata(architecture)
    if architecture.family == "gpt_neox":
        metadata["use_parallel_residual"] = architecture.parallel
    return Description(graph, metadata, tuple(notes))


def query_factor(architecture: Architecture) -> float:
    """Return the factor of queries that gives the attention scale of a model in a graph with a fixed scale."""
    graph = graph_of(architecture)
    if architecture.attention_scale is None or graph.attention_scale_key:
        return 1.0
    fixed = 1 / math.sqrt(architecture.head_dim)
    if graph.name in ("gemma2", "gemma3") and architecture.layers == _LARGEST_GEMMA[graph.name]:
        fixed = 1 / math.sqrt(architecture.width / architecture.heads)
    factor = architecture.attention_scale / fixed
    return 1.0 if abs(factor - 1) < 1e-6 else factor


_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose graphs scale by the width of the model."""


def rope_divisors(architecture: Architecture) -> dict[str, tuple[float, ...]]:
    """Return the tensors of divisors of the rotary frequencies: name -> values."""
    scaling = architecture.rope_scaling
    if scaling is None:
        return {}
    if scaling.type == "longrope":
        return {"rope_factors_long.weight": scaling.long_factors, "rope_factors_short.weight": scaling.short_factors}
    if scaling.type == "llama3":
        return {"rope_freqs.weight": _llama3_divisors(architecture, scaling)}
    return {}


def _llama3_divisors(architecture: Architecture, scaling: RopeScaling) -> tuple[float, ...]:
    divisors = []
    for i in range(architecture.rotated // 2):
        wavelength = 2 * math.pi * architecture.rope_base ** (2 * i / architecture.rotated)
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        share = min(1.0, max(0.0, (scaling.original_context / wavelength - low) / (high - low)))
        divisors.append(1 / ((1 - share) / scaling.factor + share))
    return tuple(divisors)


def _refuse_unsupported(architecture: Architecture, graph: Graph) -> None:
    where = f"export of a {architecture.family} model to GGUF"
    layers = range(architecture.layers)
    if graph.name == "smollm3" and architecture.unrotated_layers != tuple(i for i in layers if (i + 1) % 4 == 0):
        raise ModelError(where, "llama.cpp leaves out rotary positions in exactly every fourth layer")
    if architecture.unrotated_layers and graph.name != "smollm3":
        raise ModelError(where, "llama.cpp rotates positions in every layer of this family")
    if graph.name == "granite" and architecture.head_dim * architecture.heads != architecture.width:
        raise ModelError(where, "llama.cpp needs a head size of width / heads for this family")
    if graph.rotates_neighbours and architecture.rotated != architecture.head_dim:
        raise ModelError(where, "llama.cpp rotates whole heads in this family")
    if graph.window_period and architecture.window_layers != _pattern(architecture, graph.window_period):
        raise ModelError(where, f"llama.cpp has full attention in exactly every {graph.window_period}. layer")
    if graph.name == "dots1" and architecture.kv_heads != architecture.heads:
        raise ModelError(where, "llama.cpp needs as many heads of keys as of queries for this family")
    refuse_latent(architecture, where)
    if architecture.experts:
        _refuse_experts(architecture.experts, graph, where)
    allowed = {"llama": {"qkv", "output", "feedforward"}, "granite": {"qkv", "output", "feedforward"},
               "qwen2": {"qkv"}, "qwen2moe": {"qkv"},
               "gpt2": {"qkv", "output", "feedforward"}, "gptneox": {"qkv", "output", "feedforward"},
               "phi3": {"qkv", "output"}}  # fmt: skip
    if extra := set(architecture.biases) - allowed.get(graph.name, set()):
        raise ModelError(where, f"llama.cpp has no biases of {', '.join(sorted(extra))} in this family")
    if graph.name == "gptneox" and set(architecture.biases) != allowed["gptneox"]:
        raise ModelError(where, "llama.cpp needs biases in attention and feed-forward for this family")


def _refuse_experts(experts: Experts, graph: Graph, where: str) -> None:
    if experts.dense_layers and not graph.dense_first:
        raise ModelError(where, "llama.cpp has experts in every layer of this family")
    if experts.dense_layers != tuple(range(len(experts.dense_layers))):
        raise ModelError(where, "llama.cpp has layers without experts only before those with experts")
    if graph.normalizes_experts is not None and experts.normalized != graph.normalizes_experts:
        does = "divides" if graph.normalizes_experts else "does not divide"
        raise ModelError(where, f"llama.cpp {does} the weights of the active experts by their sum in this family")


def _pattern(architecture: Architecture, period: int) -> tuple[int, ...]:
    return tuple(i for i in range(architecture.layers) if (i + 1) % period)


def _rope(architecture: Architecture, notes: list[str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "rope.dimension_count": architecture.rotated,
        "rope.freq_base": float(architecture.rope_base),
    }
    if architecture.window_rope_base is not None:
        metadata["rope.freq_base_swa"] = float(architecture.window_rope_base)
    scaling = architecture.rope_scaling
    if scaling is None or scaling.type in ("llama3", "dynamic"):  # dynamic scaling begins beyond the declared context
        return metadata
    if scaling.type == "longrope":
        notes.append(
            f"llama.cpp chooses the rotary factors by the size of its context: start it with at most "
            f"{scaling.original_context} tokens of context for texts up to that length"
        )
        return metadata | {
            "rope.scaling.original_context_length": scaling.original_context,
            "rope.scaling.attn_factor": float(scaling.magnitude),
        }
    metadata |= {"rope.scaling.type": scaling.type, "rope.scaling.factor": float(scaling.factor)}
    if scaling.type == "yarn":
        usual = 1 + 0.1 * math.log(scaling.factor)
        metadata |= {
            "rope.scaling.original_context_length": scaling.original_context,
            "rope.scaling.attn_factor": float(scaling.magnitude / usual),
            "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
            "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
        }
        if not scaling.truncate:
            notes.append("llama.cpp rounds the bounds of the YaRN ramp, which this model does not")
    return metadata


def _windows(architecture: Architecture, graph: Graph) -> dict[str, Any]:
    if not graph.window_period or not architecture.window_layers:
        return {}
    return {"attention.sliding_window": architecture.window}


def _multipliers(architecture: Architecture, graph: Graph) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if graph.attention_scale_key and architecture.attention_scale is not None:
        values["attention.scale"] = float(architecture.attention_scale)
    if graph.name == "granite":
        values |= {
            "embedding_scale": float(architecture.embedding_scale),
            "residual_scale": float(architecture.residual_scale),
            "logit_scale": float(1 / architecture.logit_scale),
        }
    if architecture.attention_softcap is not None:
        values["attn_logit_softcapping"] = float(architecture.attention_softcap)
    if architecture.logit_softcap is not None:
        values["final_logit_softcapping"] = float(architecture.logit_softcap)
    return values


def _experts(architecture: Architecture) -> dict[str, Any]:
    experts = architecture.experts
    if experts is None:
        return {}
    metadata: dict[str, Any] = {
        "expert_count": experts.count, "expert_used_count": experts.active,
        "expert_feed_forward_length": experts.feedforward,
    }  # fmt: skip
    if experts.shared_gate:
        metadata["expert_shared_feed_forward_length"] = experts.shared
    elif experts.shared:
        metadata["expert_shared_count"] = experts.shared // experts.feedforward
    if experts.router == "sigmoid":
        metadata |= {
            "leading_dense_block_count": len(experts.dense_layers),
            "expert_gating_func": _SIGMOID, "expert_weights_norm": experts.normalized,
            "expert_weights_scale": float(experts.scale),
            "expert_group_count": experts.groups, "expert_group_used_count": experts.active_groups,
        }  # fmt: skip
    return metadata


_SIGMOID = 2
"""Number of the sigmoid in `expert_gating_func`."""
