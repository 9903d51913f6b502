"""The header and the tensors of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vita.formats.gguf.packages import gguf
from vita.spine.errors import ModelError


class GgufFile:
    """A GGUF file; tensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader: Any = gguf().GGUFReader(path)
        except (ValueError, OSError, KeyError, IndexError) as error:
            raise ModelError(str(path), f"is not a GGUF file that can be read: {error}") from None
        if self.get("split.count") not in (None, 0, 1):
            hint = "join the parts with `llama-gguf-split --merge` first"
            raise ModelError(str(path), "is one part of a split file", hint=hint)
        self.tensors: dict[str, Any] = {tensor.name: tensor for tensor in self._reader.tensors}

    @property
    def architecture(self) -> str:
        """Return the name of the graph in llama.cpp."""
        return str(self.get("general.architecture"))

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the header."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def of(self, name: str, default: Any = None) -> Any:
        """Return a value of the architecture, such as `context_length`."""
        return self.get(f"{self.architecture}.{name}", default)

    def require(self, name: str) -> Any:
        """Return a value of the architecture; raise `ModelError` if it is missing."""
        value = self.of(name)
        if value is None:
            raise ModelError(f"{self.path}: {self.architecture}.{name}", "is required and missing")
        return value

    def values(self, name: str) -> np.ndarray:
        """Return a tensor as float32, with the rows first."""
        tensor = self.tensors[name]
        try:
            values = gguf().dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise ModelError(f"{self.path}: {name}", f"the number type {kind} cannot be decoded") from None
        return values.astype(np.float32, copy=False).reshape([int(size) for size in reversed(tensor.shape)])
