"""Plain model folders for other programs: transformers and vLLM (`hf`), and mlx_lm on Apple silicon (`mlx`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from vita.formats.hub import card_metadata
from vita.nn import hf
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFiles

ADAPTER = "adapter_config.json"
CARD = "README.md"
_OWN_FILES = {hf.DESCRIPTION, "report"}
"""Files of Vita, which other programs do not read."""
_MLX_FAMILIES = {
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2",
    "olmo3", "smollm3", "granite", "gpt2", "gpt_neox",
}  # fmt: skip
"""Families that mlx_lm has a model for."""


def require_model(folder: Path, *, where: str) -> None:
    """Refuse a folder that is no complete model, such as an adapter."""
    if (folder / ADAPTER).is_file() and not (folder / hf.CONFIG).is_file():
        raise ModelError(where, "is an adapter, not a model", hint="merge it into its base model first: `vita merge`")
    if not (folder / hf.CONFIG).is_file():
        raise ModelError(where, f"holds no {hf.CONFIG}")


def write_folder(source: Path, target: Path, *, card: str | None) -> list[str]:
    """Copy the files of a model that other programs read; `card` replaces the model card. Return their names."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name in _OWN_FILES or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, dirs_exist_ok=True, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, target / path.name)
    if card is not None:
        (target / CARD).write_text(card, encoding="utf-8")
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())


def check_mlx(folder: Path) -> list[str]:
    """Refuse a model that mlx_lm cannot open; return notes.

    mlx_lm reads the weights of these families as they are in Hugging Face folders, from files `model*.safetensors`.
    """
    config = hf.read_config(folder)
    family = config.get("model_type")
    if family not in _MLX_FAMILIES:
        raise ModelError("export to MLX", expected=f"one of {', '.join(sorted(_MLX_FAMILIES))}", got=family)
    names = [path.name for path in hf.weight_files(ModelFiles.of(folder))]
    if strange := [name for name in names if not name.startswith("model")]:
        raise ModelError("export to MLX", "mlx_lm reads weight files called model*.safetensors", got=strange[0])
    return []


def complete_config(folder: Path, stops: list[int]) -> None:
    """Write all ends of an answer into `config.json` and `generation_config.json`, where each program looks."""
    for name in (hf.CONFIG, hf.GENERATION):
        path = folder / name
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if stops:
            values["eos_token_id"] = stops if len(stops) > 1 else stops[0]
            path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def readme_facts(folder: Path) -> dict[str, Any]:
    """Return the front matter of the card in a folder."""
    path = folder / CARD
    return card_metadata(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else {}
