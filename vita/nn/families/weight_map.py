"""Translation between the names and layouts of weight files and the decoder's own.

The decoder has separate projections with rows as outputs. Files of some families fuse queries, keys and values, store
matrices transposed, or use other names. The decoder stacks the matrices of all experts of a layer, and files store one
matrix per expert: `mlp.experts.up_proj[3].weight` is the matrix of expert 3 in `mlp.experts.up_proj.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vita.nn.architecture import Architecture, Experts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WeightNames:
    """Names and layouts of a family's files, where they differ from those of the decoder."""

    top: Mapping[str, str] = field(default_factory=dict)
    """Own names of modules outside of the layers to those in files: `{"model.norm": "transformer.ln_f"}`."""
    layers: str = "model.layers"
    """Prefix of the layers in files."""
    layer: Mapping[str, str] = field(default_factory=dict)
    """Own names of modules within a layer to those in files; `mlp.experts.{}.up_proj` is that of expert `{}`."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modules in files to the own modules whose rows they hold, in order."""
    interleaved: frozenset[str] = frozenset()
    """Fused modules whose rows alternate between their parts in each head."""
    transposed: frozenset[str] = frozenset()
    """Modules in files whose columns are outputs."""
    ignored: str | None = None
    """Pattern of tensors in files that are not parameters: masks and tables of older versions."""
    further_layers: str | None = None
    """Purpose of layers in files beyond those of the model, which are not read."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Patterns of names of older versions, and their replacements."""


OWN_NAMES = WeightNames()
"""Files with the names and layouts of the decoder: Llama, Qwen."""


@dataclass(frozen=True)
class FileModule:
    """A module of the weight files, and the own modules that it holds."""

    parts: tuple[str, ...]
    """Names of the decoder's modules."""
    rows: tuple[int, ...]
    """Outputs of each."""
    heads: int = 0
    """Heads in which the rows alternate between the own modules; 0 where each holds consecutive rows."""
    transposed: bool = False
    """Columns are outputs in files."""

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Split rows (outputs) of the file's module into those of the own modules."""
        if len(self.parts) == 1:
            return (tensor,)
        if self.heads:
            per_head = tensor.unflatten(0, (self.heads, len(self.parts), -1))
            return tuple(per_head[:, index].flatten(0, 1) for index in range(len(self.parts)))
        return tensor.split(self.rows, dim=0)

    def join(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Join rows of the own modules into those of the file's module."""
        import torch

        if len(self.parts) == 1:
            return tensors[0]
        if self.heads:
            return torch.stack([tensor.unflatten(0, (self.heads, -1)) for tensor in tensors], dim=1).flatten(0, 2)
        return torch.cat(tensors, dim=0)


STACKED = re.compile(r"(.+\.mlp\.experts\.(?:gate|up|down)_proj)\.weight")
"""Own parameters with one matrix per expert."""
STACKED_IN_FILES = re.compile(r"(.+)\.mlp\.experts\.(gate_up_proj|gate_proj|up_proj|down_proj)(?:\.weight)?")
"""Tensors of files with one matrix per expert, as transformers 5 holds them in memory; gate and up may be joined."""


def expert_slices(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters with stacked ones as one view per expert, under the names of `WeightMap`."""
    slices: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        stacked = STACKED.fullmatch(name)
        if stacked is None:
            slices[name] = parameter
        else:
            parts = parameter.detach().unbind()
            slices |= {f"{stacked[1]}[{expert}].weight": part for expert, part in enumerate(parts)}
    return slices


class WeightMap:
    """The names of all modules of an architecture, in files and in the decoder."""

    def __init__(self, architecture: Architecture, names: WeightNames) -> None:
        self.names, self._layers = names, architecture.layers
        self.modules: dict[str, FileModule] = {}
        """Modules of the files by name."""
        self._file_names: dict[str, str] = {}
        rows = module_rows(architecture)
        for part in rows:
            self._file_names[part] = self._file_name(part)
        groups: dict[str, list[str]] = {}
        for part, file_name in self._file_names.items():
            groups.setdefault(file_name, []).append(part)
        for file_name, parts in groups.items():
            short = self._short(file_name)
            order = names.fused.get(short)
            if order:
                parts.sort(key=lambda name, order=order: order.index(_within_layer(name)))
            heads = architecture.heads if short in names.interleaved else 0
            sizes = tuple(rows[name] for name in parts)
            self.modules[file_name] = FileModule(tuple(parts), sizes, heads, short in names.transposed)
        for part in (name for name in names.top if name.startswith(("pooler.", "score"))):  # the head of a classifier
            self._file_names[part] = names.top[part]
            self.modules[names.top[part]] = FileModule((part,), (0,))

    def file_name(self, parameter: str) -> str:
        """Return the name of the tensor that holds an own parameter."""
        module, _, suffix = parameter.rpartition(".")
        return f"{self._file_names.get(module, module)}.{suffix}"

    def is_further_layer(self, name: str) -> bool:
        """Return True if a tensor of the files belongs to a layer beyond those of the model, which is not read."""
        match = re.match(rf"{re.escape(self.names.layers)}\.(\d+)\.", name) if self.names.further_layers else None
        return match is not None and int(match[1]) >= self._layers

    def to_own(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the own parameters in a tensor of a file, one per expert; unknown names stay as they are."""
        for pattern, replacement in self.names.aliases:
            name = re.sub(pattern, replacement, name)
        if self.names.ignored and re.fullmatch(self.names.ignored, name):
            return
        if self.is_further_layer(name):
            return
        file_module, _, suffix = name.rpartition(".")
        # A folder of the model without its head, such as one of sentence-transformers, omits the first part of names.
        base = self.names.layers.partition(".")[0]
        module = self.modules.get(file_module) or self.modules.get(f"{base}.{file_module}")
        if module is None:
            yield from self._stacked_to_own(name, tensor)
            return
        rows = tensor.mT if module.transposed and tensor.ndim == 2 else tensor
        if len(module.parts) > 1 and rows.shape[0] != sum(module.rows):
            yield name, tensor  # reported with the name and the shape in the file
            return
        for part, part_rows in zip(module.parts, module.split(rows), strict=True):
            yield f"{part}.{suffix}", part_rows

    def _stacked_to_own(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the matrix of each expert in a stacked tensor of a file; other tensors stay as they are."""
        match = STACKED_IN_FILES.fullmatch(name)
        layer = re.sub(rf"^{re.escape(self.names.layers)}\.", "model.layers.", match[1]) if match else ""
        if match is None or tensor.ndim != 3 or f"{layer}.mlp.experts.down_proj[0]" not in self._file_names:
            yield name, tensor
            return
        projections = ("gate_proj", "up_proj") if match[2] == "gate_up_proj" else (match[2],)
        for projection, part in zip(projections, tensor.chunk(len(projections), dim=1), strict=True):
            for expert, matrix in enumerate(part.unbind()):
                yield f"{layer}.mlp.experts.{projection}[{expert}].weight", matrix

    def to_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file; parameters of no known module keep their names."""
        tensors = {}
        remaining = expert_slices(state)
        for file_name, module in self.modules.items():
            for suffix in ("weight", "bias", "e_score_correction_bias"):
                if f"{module.parts[0]}.{suffix}" not in remaining:
                    continue
                rows = module.join(tuple(remaining.pop(f"{part}.{suffix}") for part in module.parts))
                tensors[f"{file_name}.{suffix}"] = rows.mT if module.transposed and rows.ndim == 2 else rows
        return {**tensors, **remaining}

    def _file_name(self, part: str) -> str:
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", part)
        if not match:
            return self.names.top.get(part, part)
        layer, within = match.groups()
        return f"{self.names.layers}.{layer}.{self._name_within(within)}"

    def _name_within(self, within: str) -> str:
        for file_name, parts in self.names.fused.items():
            if within in parts:
                return file_name
        expert = re.fullmatch(r"mlp\.experts\.(\w+)\[(\d+)\]", within)
        if expert:
            template = f"mlp.experts.{{}}.{expert[1]}"
            return self.names.layer.get(template, template).format(expert[2])
        return self.names.layer.get(within, within)

    def _short(self, file_name: str) -> str:
        prefix = re.escape(self.names.layers)
        return re.sub(rf"^{prefix}\.\d+\.", "", file_name)


def _within_layer(part: str) -> str:
    return part.split(".", 3)[3]


def module_rows(architecture: Architecture) -> dict[str, int]:
    """Return the number of rows (outputs) of each module with parameters, by its own name."""
    width = architecture.width
    rows = {"model.embed_tokens": architecture.vocabulary}
    if architecture.positions == "learned":
        rows["model.embed_positions"] = architecture.context
    if architecture.token_types:
        rows["model.embed_types"] = architecture.token_types
    if architecture.embedding_norm:
        rows["model.embed_norm"] = width
    for layer in range(architecture.layers):
        rows |= {f"model.layers.{layer}.{name}": size for name, size in _layer_rows(architecture, layer).items()}
    if architecture.has_final_norm:
        rows["model.norm"] = width
    head = architecture.masked_head
    if head is not None:
        rows |= {"masked_head.dense": width, "masked_head.norm": width}
    has_matrix = not architecture.tied and (architecture.causal or head is not None)
    if has_matrix or (head is not None and head.output_bias):
        rows["lm_head"] = architecture.vocabulary
    return rows


def _layer_rows(architecture: Architecture, layer: int) -> dict[str, int]:
    width, size = architecture.width, architecture.head_dim
    queries, keys = architecture.heads * size, architecture.kv_heads * size
    rows = {}
    if architecture.has_input_norm(layer):
        rows["input_layernorm"] = width
    if architecture.norm_position in ("before", "both"):
        rows["post_attention_layernorm"] = width
    if architecture.norm_position != "before":
        rows |= {"attention_output_norm": width, "mlp_output_norm": width}
    if architecture.latent:
        shapes = architecture.latent.matrix_shapes(width, architecture.heads)
        rows |= {f"self_attn.{name}": outputs for name, (outputs, _) in shapes.items()}
        rows |= {f"self_attn.{name}": size for name, size in architecture.latent.norm_sizes().items()}
    else:
        rows |= {"self_attn.q_proj": queries, "self_attn.k_proj": keys, "self_attn.v_proj": keys}
        rows["self_attn.o_proj"] = width
    if architecture.qk_norm == "head":
        rows |= {"self_attn.q_norm": size, "self_attn.k_norm": size}
    if architecture.qk_norm == "projection":
        rows |= {"self_attn.q_norm": queries, "self_attn.k_norm": keys}
    if architecture.experts is None or not architecture.has_experts(layer):
        return rows | _feedforward_rows("mlp", architecture.feedforward, architecture)
    return rows | _mixture_rows(architecture, architecture.experts)


def _mixture_rows(architecture: Architecture, experts: Experts) -> dict[str, int]:
    rows = {"mlp.router": experts.count}
    for expert in range(experts.count):
        parts = _feedforward_rows("mlp.experts", experts.feedforward, architecture)
        rows |= {f"{name}[{expert}]": size for name, size in parts.items()}
    if experts.shared:
        rows |= _feedforward_rows("mlp.shared_experts", experts.shared, architecture)
    if experts.shared_gate:
        rows["mlp.shared_expert_gate"] = 1
    return rows


def _feedforward_rows(prefix: str, inner: int, architecture: Architecture) -> dict[str, int]:
    gate = {f"{prefix}.gate_proj": inner} if architecture.gated else {}
    return {**gate, f"{prefix}.up_proj": inner, f"{prefix}.down_proj": architecture.width}
