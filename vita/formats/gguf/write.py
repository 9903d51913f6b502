"""Writing a model folder as a GGUF file.

    report = write_gguf(folder, Path("model.gguf"), quantization="q8_0", general={"name": "mine"})

Keys and tensors are written directly from the architecture, without the converter of llama.cpp, which refuses
tokenizers that it does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vita.formats.gguf.architectures import Description, describe
from vita.formats.gguf.latent import split_shape
from vita.formats.gguf.metadata import add_values
from vita.formats.gguf.packages import gguf, quantize
from vita.formats.gguf.proof import check_with_llama_cpp
from vita.formats.gguf.quantization import check_quantization, file_type, tensor_type
from vita.formats.gguf.tensors import TensorSource, tensor_sources, tensor_value
from vita.formats.gguf.tokenizer import GgufTokenizer, describe_tokenizer
from vita.formats.gguf.weights import FolderWeights
from vita.nn import hf
from vita.nn.architecture import Architecture
from vita.nn.families import read_architecture

_ONLY_IDS = "this file is for token ids: the tokenization of llama.cpp was not compared; `vita export` compares it"


@dataclass(frozen=True)
class GgufReport:
    """The content of a written file."""

    path: Path
    bytes: int
    types: Mapping[str, int]
    """Number type -> tensors."""
    context: int
    """Context that the file declares, in tokens."""
    notes: tuple[str, ...]
    """Differences to the model that the user must know."""


def write_gguf(
    folder: Path,
    target: Path,
    *,
    quantization: str = "bf16",
    general: Mapping[str, Any] | None = None,
    reads_text: bool = True,
) -> GgufReport:
    """Write the model in a folder to `target`; raise `ModelError` for what llama.cpp does not compute.

    A file without `reads_text` is for a program that sends and receives only token ids: the tokenization of llama.cpp
    is not compared with that of the model, and may differ.
    """
    check_quantization(quantization)
    architecture = read_architecture(hf.read_config(folder), where=str(folder / hf.CONFIG))
    description = describe(architecture)
    tokenizer = describe_tokenizer(folder, rows=architecture.vocabulary, reads_text=reads_text)
    unproven = check_with_llama_cpp(folder, tokenizer) if reads_text else _ONLY_IDS
    weights = FolderWeights(folder, architecture)
    sources = tensor_sources(architecture, weights)
    temporary = target.with_name(f".{target.name}.partial")
    try:
        writer = gguf().GGUFWriter(temporary, description.graph.name)
        _add_metadata(writer, description, tokenizer, {**(general or {}), "file_type": file_type(quantization)})
        kinds = _add_tensors(writer, sources, architecture, weights, quantization)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for source, kind in zip(sources, kinds, strict=True):
            writer.write_tensor_data(_encode(tensor_value(source, architecture, weights), kind))
        writer.close()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    notes = (*description.notes, *tokenizer.notes, *([unproven] if unproven else []))
    counts = Counter(kind.name for kind in kinds)
    return GgufReport(target, target.stat().st_size, dict(counts), int(description.metadata["context_length"]), notes)


def _add_tensors(
    writer: Any, sources: list[TensorSource], architecture: Architecture, weights: FolderWeights, quantization: str
) -> list[Any]:
    """Declare all tensors and return their types; the data follows."""
    kinds: list[Any] = []
    for source in sources:
        shape = _shape(source, architecture, weights)
        kind = tensor_type(quantization, source.name, shape, layers=architecture.layers)
        kinds.append(kind)
        stored = gguf().quant_shape_to_byte_shape(shape, kind) if _is_packed(kind) else shape
        size = int(np.prod(stored)) * (1 if _is_packed(kind) else _NUMPY[kind.name]().itemsize)
        dtype = np.dtype(np.uint8) if _is_packed(kind) else np.dtype(_NUMPY[kind.name])
        writer.add_tensor_info(source.name, stored, dtype, size, raw_dtype=kind)
    return kinds


def _shape(source: TensorSource, architecture: Architecture, weights: FolderWeights) -> tuple[int, ...]:
    if not source.parameters:
        return (len(source.values),)
    if source.part:
        return split_shape(architecture, source.part)
    shapes = [weights.shape(name) for name in source.parameters]
    if source.is_stacked:
        return (len(shapes), *shapes[0])
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


_NUMPY: dict[str, Any] = {"F32": np.float32, "F16": np.float16}
"""Types that numpy has; tensors of other types are bytes."""


def _is_packed(kind: Any) -> bool:
    return kind.name not in _NUMPY


def _encode(values: np.ndarray, kind: Any) -> np.ndarray:
    if kind.name in _NUMPY:
        with np.errstate(over="ignore"):
            return values.astype(_NUMPY[kind.name])
    return quantize(values, kind)


def _add_metadata(writer: Any, description: Description, tokenizer: GgufTokenizer, general: Mapping[str, Any]) -> None:
    writer.add_type("model")
    writer.add_quantization_version(gguf().GGML_QUANT_VERSION)
    add_values(writer, "general", general)
    add_values(writer, description.graph.name, description.metadata)
    add_values(writer, "tokenizer", tokenizer.metadata)
