"""Names of modules in model files and in the decoder.

An adapter in peft's format names the modules of the files of its base model; the decoder has its own names. For most
families both are equal. A module of the files that holds several modules of the decoder (`qkv_proj`) has several parts,
each with some of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor, nn

from vita.nn.architecture import Architecture
from vita.nn.families import weight_map
from vita.nn.families.weight_map import WeightMap


@dataclass(frozen=True)
class PeftModule:
    """A module of the files and the modules of the decoder that it holds."""

    name: str
    parts: tuple[str, ...]
    rows: tuple[int, ...] = ()
    """Outputs of each part."""
    weights: WeightMap | None = None

    @property
    def transposed(self) -> bool:
        """Return whether the columns of the matrix in files are outputs."""
        return self.weights is not None and self.weights.modules[self.name].transposed

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of each part, from a tensor with one entry per output of the file module."""
        return (rows,) if self.weights is None else self.weights.modules[self.name].split(rows)

    def join(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Return the rows of the file module: the inverse of `split`."""
        return parts[0] if self.weights is None else self.weights.modules[self.name].join(parts)


class ModuleNames:
    """The modules of the files of one architecture."""

    def __init__(self, architecture: Architecture, *, classifier: bool = False) -> None:
        self.weights = weight_map(architecture, classifier=classifier)
        self._by_part: dict[str, PeftModule] = {}
        self._by_name: dict[str, PeftModule] = {}
        for name, module in self.weights.modules.items():
            in_file = PeftModule(name, module.parts, module.rows, self.weights)
            self._by_name[name] = in_file
            self._by_part |= dict.fromkeys(module.parts, in_file)

    def of_part(self, name: str) -> PeftModule:
        """Return the module of the files that holds the module `name` of the decoder."""
        return self._by_part.get(name) or PeftModule(name, (name,))

    def named(self, name: str) -> PeftModule:
        """Return the module of the files with this name."""
        return self._by_name.get(name) or PeftModule(name, (name,))

    def to_files(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the files for parameters of the decoder."""
        return self.weights.to_file(parameters)


@lru_cache(maxsize=8)
def _names_of(architecture: str, *, classifier: bool) -> ModuleNames:
    return ModuleNames(Architecture.model_validate_json(architecture), classifier=classifier)


def module_names(model: nn.Module) -> ModuleNames:
    """Return the names of the modules of a model in files."""
    architecture = model.architecture
    assert isinstance(architecture, Architecture)
    return _names_of(architecture.model_dump_json(), classifier=hasattr(model, "score"))
