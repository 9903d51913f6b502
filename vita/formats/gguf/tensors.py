"""Tensors of a GGUF file: their names, and their values computed from the decoder's own parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vita.formats.gguf.architectures import Graph, graph_of, query_factor, rope_divisors
from vita.formats.gguf.latent import (
    SPLIT_MODULE,
    SPLIT_TENSORS,
    TENSORS,
    Part,
    interleave_rotated,
    split_latent,
)
from vita.formats.gguf.weights import FolderWeights
from vita.nn.architecture import Architecture
from vita.nn.experts import CORRECTION
from vita.nn.families.weight_map import module_rows

TOP = {"model.embed_tokens": "token_embd", "model.embed_positions": "position_embd", "model.norm": "output_norm",
       "lm_head": "output"}  # fmt: skip
LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "attention_output_norm": "post_attention_norm",
    "post_attention_layernorm": "ffn_norm", "mlp_output_norm": "post_ffw_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.router": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    **TENSORS,
}  # fmt: skip
"""Own modules of a layer -> names in GGUF."""
CORRECTION_TENSOR = "exp_probs_b.bias"
"""The correction of the choice of experts, a parameter of the router."""
SUFFIXES = ("weight", "bias", CORRECTION)
"""Last parts of the names of own parameters."""
EXPERTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}


@dataclass(frozen=True)
class TensorSource:
    """A tensor of the file and the own parameters that it holds."""

    name: str
    parameters: tuple[str, ...]
    """Own parameters: one, several whose rows are joined, or one per expert."""
    is_stacked: bool = False
    """One matrix per expert."""
    values: tuple[float, ...] = ()
    """The values of a tensor that holds no parameter."""
    part: Part | None = None
    """Part of the projection from latent vectors that the tensor holds."""


def tensor_sources(architecture: Architecture, weights: FolderWeights) -> list[TensorSource]:
    """Return the tensors of a file in the order of the layers."""
    graph = graph_of(architecture)
    groups: dict[str, list[str]] = {}
    for module in module_rows(architecture):
        name = file_module(module, graph)
        groups.setdefault(name, []).append(module)
    sources = [TensorSource(name, (), values=values) for name, values in rope_divisors(architecture).items()]
    for name, modules in groups.items():
        for suffix in SUFFIXES:
            parameters = tuple(f"{module}.{suffix}" for module in modules if f"{module}.{suffix}" in weights)
            if parameters and name.endswith(SPLIT_MODULE):
                prefix = name.removesuffix(SPLIT_MODULE)
                sources += [
                    TensorSource(f"{prefix}{tensor}.{suffix}", parameters, part=part)
                    for part, tensor in SPLIT_TENSORS.items()
                ]
            elif parameters:
                file_name = file_tensor(name, suffix)
                sources.append(TensorSource(file_name, parameters, is_stacked=name.endswith("_exps")))
    return sources


def file_tensor(module: str, suffix: str) -> str:
    """Return the name in GGUF of a parameter of a module."""
    if suffix == CORRECTION:
        return module.replace("ffn_gate_inp", CORRECTION_TENSOR)
    return f"{module}.{suffix}"


def file_module(module: str, graph: Graph) -> str:
    """Return the name in GGUF of an own module."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    if match is None:
        return TOP[module]
    layer, within = match.groups()
    expert = re.fullmatch(r"mlp\.experts\.(\w+)\[\d+\]", within)
    if expert:
        return f"blk.{layer}.{EXPERTS[expert[1]]}"
    if graph.fused_qkv and within in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        return f"blk.{layer}.attn_qkv"
    if graph.fused_gate and within in ("mlp.gate_proj", "mlp.up_proj"):
        return f"blk.{layer}.ffn_up"
    if within == SPLIT_MODULE:
        return f"blk.{layer}.{SPLIT_MODULE}"
    return f"blk.{layer}.{LAYER[within]}"


def tensor_value(source: TensorSource, architecture: Architecture, weights: FolderWeights) -> np.ndarray:
    """Return the values of a tensor of the file in float32."""
    if not source.parameters:
        return np.array(source.values, dtype=np.float32)
    parts = [to_file(name, weights[name], architecture) for name in source.parameters]
    if source.is_stacked:
        return np.stack(parts)
    if source.part:
        return split_latent(parts[0], architecture, source.part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def to_file(parameter: str, value: np.ndarray, architecture: Architecture) -> np.ndarray:
    """Return an own parameter as the graph of llama.cpp reads it."""
    graph, module = graph_of(architecture), parameter.rpartition(".")[0]
    if architecture.norm_offset and module.endswith("norm"):
        value = value + np.float32(architecture.norm_offset)
    if (factor := query_factor(architecture)) != 1 and module.endswith(_scaled_module(architecture)):
        value = value * np.float32(factor)
    if graph.rotates_neighbours and (heads := _rotated_heads(module, architecture)):
        value = interleave_halves(value, heads)
    return interleave_rotated(module, value, architecture) if architecture.latent else value


def from_file(parameter: str, value: np.ndarray, architecture: Architecture) -> np.ndarray:
    """Return a tensor of the file as an own parameter: the inverse of `to_file` without a query factor."""
    graph, module = graph_of(architecture), parameter.rpartition(".")[0]
    if graph.rotates_neighbours and (heads := _rotated_heads(module, architecture)):
        value = separate_halves(value, heads)
    if architecture.norm_offset and module.endswith("norm"):
        value = value - np.float32(architecture.norm_offset)
    return value


def interleave_halves(value: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows per head from (first half, second half) to neighbours: 0, n/2, 1, n/2 + 1, ..."""
    return _swap(value, heads, (2, -1))


def separate_halves(value: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows per head from neighbours to (first half, second half)."""
    return _swap(value, heads, (-1, 2))


def _swap(value: np.ndarray, heads: int, inner: Sequence[int]) -> np.ndarray:
    grouped = value.reshape(heads, *inner, *value.shape[1:])
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(value.shape)


def _rotated_heads(module: str, architecture: Architecture) -> int:
    """Return the heads of a module whose rows are rotated, 0 for other modules."""
    if module.endswith("self_attn.q_proj"):
        return architecture.heads
    return architecture.kv_heads if module.endswith("self_attn.k_proj") else 0


def _scaled_module(architecture: Architecture) -> str:
    """Return the module that carries the attention scale: the norm of the queries, or their projection."""
    return "self_attn.q_proj" if architecture.qk_norm == "none" else "self_attn.q_norm"


def own_parameters(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Yield (own module, its name in GGUF) of every module."""
    graph = graph_of(architecture)
    for module in module_rows(architecture):
        yield module, file_module(module, graph)
