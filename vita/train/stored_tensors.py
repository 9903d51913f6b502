"""Tensors in the files of a checkpoint, of which a process reads the parts that it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from vita.spine.errors import StoreError
from vita.train.parallel.boxes import Box


@dataclass(frozen=True)
class StoredPart:
    """A part of a tensor, and the safetensors file that holds it."""

    path: Path
    shape: tuple[int, ...]
    box: Box


class StoredTensors:
    """The parts of all tensors of a checkpoint, by name."""

    def __init__(self, parts: Mapping[str, Sequence[StoredPart]]) -> None:
        self.parts = parts

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The full shape of each tensor."""
        return {name: parts[0].shape for name, parts in self.parts.items()}

    def check_shapes(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raise `StoreError` if names or shapes differ from those of the run."""
        stored = self.shapes
        if stored.keys() != expected.keys():
            mismatched_name = sorted(stored.keys() ^ expected.keys())[0]
            raise StoreError("checkpoint", f"its tensors do not fit this run: `{mismatched_name}`")
        for name, shape in expected.items():
            if stored[name] != shape:
                raise StoreError(f"checkpoint: {name}", expected=str(shape), got=stored[name])

    def read(self, name: str, box: Box) -> Tensor:
        """Read a part of a tensor from all files that hold a piece of it."""
        result: Tensor | None = None
        filled = 0
        for part in self.parts[name]:
            common = box.intersection(part.box)
            if common is None:
                continue
            with safe_open(part.path, framework="pt") as file:
                piece = (
                    file.get_slice(name)[common.relative_to(part.box).slices] if part.shape else file.get_tensor(name)
                )
            if result is None:
                result = torch.empty(box.sizes, dtype=piece.dtype)
            common.relative_to(box).of(result).copy_(piece)
            filled += common.numel
        if result is None and not box.numel:
            return torch.empty(box.sizes)
        if result is None or filled != box.numel:
            raise StoreError(f"checkpoint: {name}", expected=f"{box.numel} numbers", got=filled)
        return result


def read_index(paths: Sequence[Path]) -> dict[str, list[StoredPart]]:
    """Read the index files of all processes; raise `ValueError` or `KeyError` if one is not as expected."""
    parts: dict[str, list[StoredPart]] = {}
    for path in paths:
        for name, entry in json.loads(path.read_text(encoding="utf-8"))["tensors"].items():
            box = Box(tuple(map(int, entry["starts"])), tuple(map(int, entry["sizes"])))
            part = StoredPart(path.with_suffix(".safetensors"), tuple(map(int, entry["shape"])), box)
            parts.setdefault(name, []).append(part)
    return parts
