"""Identity of weights by the values of their tensors: another file layout or number type does not change it.

    tensor_digest(folder)                # the same for one file and for shards, and with any metadata

The digest covers name, shape and values of every tensor that a loader reads. Values count as 32-bit floating-point
numbers, as a model is loaded, so that weights in a wider type are the same weights. An output layer that repeats the
embedding of a tied model is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vita.spine.errors import ModelError
from vita.spine.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    base_reference,
    description,
    is_adapter_folder,
)
from vita.spine.store import canonical_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CHUNK = 2**22
"""Numbers that are converted at a time."""
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def tensor_digest(folder: Path) -> str | None:
    """Return the digest of the tensors in a model folder; None without readable weights."""
    if is_adapter_folder(folder):
        return _adapter_digest(folder)
    try:
        tensors = {name: entry for path in _weight_files(folder) for name, entry in _tensors(path)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if _HEAD in tensors and tensors[_HEAD] == tensors.get(_EMBEDDING):
        del tensors[_HEAD]
    return hashlib.sha256(canonical_json(sorted(tensors.items()))).hexdigest() if tensors else None


def _adapter_digest(folder: Path) -> str | None:
    """Return the digest of an adapter: its tensors, its configuration, and the reference of its base."""
    try:
        tensors = dict(_tensors(folder / ADAPTER_WEIGHTS))
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        written = description(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError):
        return None
    config = {name: value for name, value in config.items() if name not in ("base_model_name_or_path", "peft_version")}
    base = [base_reference(folder), written.get("quantization")]
    return hashlib.sha256(canonical_json([sorted(tensors.items()), config, base])).hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files: those in the index, or the only one."""
    if (folder / INDEX).is_file():
        shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return [folder / name for name in sorted(set(shards.values()))]
    return [folder / WEIGHTS]


def _tensors(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield each tensor's name with its shape and the sha256 of its values."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(file.read(size))
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            values = _values_sha256(path, entry["dtype"], offset=8 + size + start, size=end - start)
            yield name, [entry["shape"], values]


def _values_sha256(path: Path, dtype: str, *, offset: int, size: int) -> str:
    """Return the sha256 of a tensor's values as 32-bit numbers, or of its bytes for other types."""
    digest = hashlib.sha256()
    if dtype not in _TYPES:
        digest.update(dtype.encode())
    stored = np.dtype(_TYPES.get(dtype, "u1"))
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, size, CHUNK * stored.itemsize):
            data = file.read(min(CHUNK * stored.itemsize, size - start))
            values = np.frombuffer(data, stored)
            if dtype == "BF16":  # the upper half of a 32-bit number
                values = values.astype("<u4") << np.uint32(16)
            elif dtype in _TYPES:
                with np.errstate(over="ignore", invalid="ignore"):
                    values = values.astype("<f4")
            digest.update(values.tobytes())
    return digest.hexdigest()
