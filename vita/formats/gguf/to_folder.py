"""Reading a GGUF file as a model folder: weights, tokenizer, template and generation settings.

    notes = convert_to_folder(Path("model.gguf"), folder)

Quantized weights are converted to float16 or float32, whichever holds all of them. What a file cannot say is refused
by name. The original folder of a model, where there is one, is always the better source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from vita.formats.gguf.file_architecture import read_architecture_of_file
from vita.formats.gguf.file_tokenizer import write_tokenizer_of_file
from vita.formats.gguf.reader import GgufFile
from vita.formats.gguf.tensors import SUFFIXES, file_tensor, from_file, own_parameters
from vita.nn import hf
from vita.nn.architecture import Architecture
from vita.nn.families import weight_map, write_config
from vita.spine.errors import ModelError

_EXACT = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that are kept; values of other types are decoded to float32 and stored as float16."""


def convert_to_folder(path: Path, folder: Path) -> list[str]:
    """Write the model of a GGUF file to a folder; return notes for the user."""
    file = GgufFile(path)
    architecture = read_architecture_of_file(file)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = _dtype(file)
    state = dict(_parameters(file, architecture))
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in weight_map(architecture).to_file(state).items()}
    save_file(tensors, folder / hf.WEIGHTS, metadata={"format": "pt"})
    stops = write_tokenizer_of_file(file, folder)
    config = {**write_config(architecture), "dtype": str(dtype).removeprefix("torch."), "eos_token_id": stops}
    (folder / hf.CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_generation(file, folder, stops)
    kinds = sorted({tensor.tensor_type.name for tensor in file.tensors.values()} - set(_EXACT))
    if not kinds:
        return []
    return [f"the weights were quantized ({', '.join(kinds)}): they are those of the file, not of the original model"]


def _dtype(file: GgufFile) -> torch.dtype:
    """Return the type of the matrices; float16 for quantized ones."""
    kinds = {tensor.tensor_type.name for tensor in file.tensors.values() if len(tensor.shape) > 1}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in _EXACT:
        return _EXACT[kind]
    return torch.float32 if kinds <= {"F32", "BF16"} else torch.float16


def _parameters(file: GgufFile, architecture: Architecture) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the decoder's own parameters."""
    groups: dict[str, list[str]] = {}
    for module, name in own_parameters(architecture):
        groups.setdefault(name, []).append(module)
    for name, modules in groups.items():
        for suffix in SUFFIXES:
            file_name = file_tensor(name, suffix)
            if file_name not in file.tensors:
                if suffix == "weight":
                    raise ModelError(f"{file.path}: {name}.weight", "missing from the file")
                continue
            values = file.values(file_name)
            if name.endswith("ffn_gate_inp_shexp"):
                values = values.reshape(1, -1)
            for module, part in zip(modules, _parts(values, name, modules, architecture), strict=True):
                parameter = f"{module}.{suffix}"
                yield parameter, torch.from_numpy(np.array(from_file(parameter, part, architecture), order="C"))


def _parts(values: np.ndarray, name: str, modules: list[str], architecture: Architecture) -> list[np.ndarray]:
    """Return the parts of a tensor that holds several own modules."""
    if len(modules) == 1:
        return [values]
    if name.endswith("_exps"):
        return list(values)
    if name.endswith("attn_qkv"):
        queries, keys = architecture.heads * architecture.head_dim, architecture.kv_heads * architecture.head_dim
        return np.split(values, [queries, queries + keys])
    return np.split(values, len(modules))


def _write_generation(file: GgufFile, folder: Path, stops: list[int]) -> None:
    names = {"sampling.temp": "temperature", "sampling.top_k": "top_k", "sampling.top_p": "top_p"}
    values: Mapping[str, Any] = {setting: file.get(f"general.{key}") for key, setting in names.items()}
    sampling = {name: value for name, value in values.items() if value is not None}
    settings = {
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id"), "eos_token_id": stops,
        "pad_token_id": file.get("tokenizer.ggml.padding_token_id"), **sampling,
        **({"do_sample": True} if sampling else {}),
    }  # fmt: skip
    (folder / hf.GENERATION).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
