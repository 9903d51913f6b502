"""Names of modules in model files and in the decoder.

An adapter in peft's format names the modules of the files of its base model; the decoder has its own names. For most
families both are equal. A module of the files that holds several modules of the decoder (`qkv_proj`) has several parts,
each with some of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class FileModule:
    """A module of the files and the modules of the decoder that it holds."""

    name: str
    parts: tuple[str, ...]

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return the rows of each part, from a tensor with one entry per output of the file module."""
        return [rows]

    def join(self, parts: list[Tensor]) -> Tensor:
        """Return the rows of the file module: the inverse of `split`."""
        return parts[0]


def file_module(model: nn.Module, name: str) -> FileModule:
    """Return the module of the files that holds the module `name` of the decoder."""
    return FileModule(name, (name,))


def file_module_named(model: nn.Module, name: str) -> FileModule:
    """Return the module of the files with this name."""
    return FileModule(name, (name,))
