"""The settings of an embedding model, in the files of a folder of sentence-transformers.

    config = read_embedding_config(files)       # None for a folder without `modules.json`
    write_embedding_config(EmbeddingConfig("mean"), folder, architecture=shape, length=512)

`modules.json` lists the transformer, the pooling (`1_Pooling/config.json`) and an optional normalization.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.pooling import Pooling
from vita.spine.disk import write_atomically
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFiles, ModelFolder

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
LENGTH = "sentence_bert_config.json"
TOKENIZER = "tokenizer_config.json"
PROMPTS = "config_sentence_transformers.json"
_MODES: Mapping[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_KEYS: Mapping[str, Pooling | None] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": None,
    "pooling_mode_mean_sqrt_len_tokens": None,
    "pooling_mode_weightedmean_tokens": None,
    "pooling_mode_lasttoken": "last",
}
"""Keys of `1_Pooling/config.json`; None for a pooling that is not supported."""


@dataclass(frozen=True)
class EmbeddingConfig:
    """The pooling that turns the outputs of the last layer into an embedding."""

    pooling: Pooling = "mean"
    normalize: bool = True
    """Scale embeddings to length 1."""
    length: int | None = None
    """Maximum tokens of a text; by default the context of the model."""
    prompt: str = ""
    """Text before each input."""


def is_embedding_folder(folder: ModelFolder) -> bool:
    """Return whether a folder has the settings of an embedding model."""
    return ModelFiles.of(folder).exists(MODULES)


def read_embedding_config(folder: ModelFolder) -> EmbeddingConfig | None:
    """Return the settings of an embedding model; None for a folder of another model."""
    files = ModelFiles.of(folder)
    if not files.exists(MODULES):
        return None
    modules = _read(files, MODULES)
    where = str(files.path(MODULES))
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(where, expected="a JSON list of modules", got=type(modules).__name__)
    names = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if names[:2] != ["Transformer", "Pooling"] or names[2:] not in ([], ["Normalize"]):
        expected = "the modules Transformer, Pooling and optionally Normalize"
        raise ModelError(where, expected=expected, got=", ".join(names))
    pooling = _pooling(files, f"{modules[1].get('path') or '1_Pooling'}/config.json")
    length = _object(files, LENGTH).get("max_seq_length") or _object(files, TOKENIZER).get("model_max_length")
    prompts = _object(files, PROMPTS)
    name = prompts.get("default_prompt_name")
    prompt = (prompts.get("prompts") or {}).get(name, "") if name else ""
    return EmbeddingConfig(pooling, "Normalize" in names, length if isinstance(length, int) else None, str(prompt))


def write_embedding_config(
    config: EmbeddingConfig, folder: Path, *, architecture: Architecture, dimensions: tuple[int, ...] = ()
) -> None:
    """Write the files that sentence-transformers opens.

    `dimensions` are the lengths to which embeddings can be cut (matryoshka), for `config.json`.
    """
    modules = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        *([("2_Normalize", "Normalize")] if config.normalize else []),
    ]
    _write(
        folder / MODULES,
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
            for index, (path, name) in enumerate(modules)
        ],
    )
    chosen = {key: pooling is not None and pooling == config.pooling for key, pooling in _KEYS.items()}
    _write(folder / POOLING, {"word_embedding_dimension": architecture.width, **chosen, "include_prompt": True})
    _write(folder / LENGTH, {"max_seq_length": config.length or architecture.context, "do_lower_case": False})
    prompts = {"default": config.prompt} if config.prompt else {}
    name = "default" if config.prompt else None
    _write(folder / PROMPTS, {"prompts": prompts, "default_prompt_name": name, "similarity_fn_name": "cosine"})
    path = folder / "config.json"
    if dimensions and path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
        _write(path, {**values, "matryoshka_dimensions": list(dimensions)})


def _pooling(files: ModelFiles, name: str) -> Pooling:
    values, where = _object(files, name, required=True), str(files.path(name))
    modes = values.get("pooling_mode")
    chosen = [modes] if isinstance(modes, str) else modes if isinstance(modes, list) else None
    if chosen is None:
        chosen = [key for key in _KEYS if values.get(key) is True] or ["pooling_mode_mean_tokens"]
    poolings: list[Pooling | None] = [_MODES.get(mode) or _KEYS.get(mode) for mode in chosen]
    pooling = poolings[0] if len(poolings) == 1 else None
    if pooling is None:
        raise ModelError(where, expected="one pooling: cls, mean or lasttoken", got=", ".join(map(str, chosen)))
    return pooling


def _object(files: ModelFiles, name: str, *, required: bool = False) -> dict[str, Any]:
    if not required and not files.exists(name):
        return {}
    value = _read(files, name)
    if not isinstance(value, dict):
        raise ModelError(str(files.path(name)), expected="a JSON object", got=type(value).__name__)
    return value


def _read(files: ModelFiles, name: str) -> Any:
    try:
        return json.loads(files.text(name))
    except FileNotFoundError:
        raise ModelError(str(files.path(name)), "no such file") from None
    except ValueError as error:
        raise ModelError(str(files.path(name)), f"is not JSON: {error}") from None


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
