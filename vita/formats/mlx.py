"""Model folders for mlx_lm, which reads Hugging Face weights of these families and the config keys of transformers 4.

mlx_lm does not compute all switches of a family: a model that it would compute differently is refused, or a note says
for which texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita.nn import hf
from vita.nn.architecture import Architecture
from vita.nn.families import read_architecture, write_config
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFiles

WHERE = "export to MLX"
_WITHOUT_WINDOWS = ("mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "phi3", "smollm3")
"""Families for which mlx_lm attends to all tokens."""


def check_mlx(folder: Path) -> list[str]:
    """Refuse a model that mlx_lm does not compute; return notes on differences."""
    architecture = _architecture(folder)
    family = architecture.family
    if not architecture.causal:
        raise ModelError(WHERE, "mlx_lm generates text with decoders, and the model is an encoder")
    if architecture.biases and family in ("qwen3", "qwen3_moe"):
        raise ModelError(WHERE, f"mlx_lm has no biases in models of the family {family}")
    if family == "gpt_neox" and (architecture.feedforward != 4 * architecture.width or len(architecture.biases) < 3):
        raise ModelError(WHERE, "mlx_lm needs biases and a feed-forward width of four times the model's for gpt_neox")
    if family == "gpt2" and any(name.startswith("transformer.") for name in hf.stored_dtypes(folder)):
        raise ModelError(WHERE, "mlx_lm reads weights of gpt2 only by the names of its first files, without a prefix")
    names = [path.name for path in hf.weight_files(ModelFiles.of(folder))]
    if strange := [name for name in names if not name.startswith("model")]:
        raise ModelError(WHERE, "mlx_lm reads weight files called model*.safetensors", got=strange[0])
    return list(_notes(architecture))


def _notes(architecture: Architecture) -> list[str]:
    notes: list[str] = []
    if architecture.window_layers and architecture.family in _WITHOUT_WINDOWS:
        notes.append(f"mlx_lm attends to all tokens, this model to windows of {architecture.window}")
    scaling = architecture.rope_scaling
    if scaling and scaling.type == "longrope":
        notes.append("mlx_lm uses the rotary factors of long texts for short ones, too")
    if scaling and scaling.type == "dynamic":
        notes.append(f"mlx_lm does not scale positions beyond {architecture.context} tokens")
    return notes


def write_mlx_config(folder: Path) -> None:
    """Write `config.json` with the keys of earlier transformers as well, which mlx_lm reads (`rope_theta`, ...)."""
    config = hf.read_config(folder)
    earlier = write_config(_architecture(folder))
    values: dict[str, Any] = {**earlier, **{name: value for name, value in config.items() if value is not None}}
    if (experts := values.get("num_local_experts")) is not None:
        values.setdefault("num_experts", experts)
    if isinstance(scaling := values.get("rope_scaling"), dict):
        values["rope_scaling"] = {"type": scaling.get("rope_type"), **scaling}
    if positions := values.get("n_positions"):
        values.setdefault("n_ctx", positions)
    (folder / hf.CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _architecture(folder: Path) -> Architecture:
    return read_architecture(hf.read_config(folder), where=str(folder / hf.CONFIG))
