"""The weights of a model folder by the decoder's own names, read one at a time.

weights = FolderWeights(folder, architecture)
weights["model.layers.0.self_attn.q_proj.weight"]        # float32, rows are outputs
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vita.nn import hf
from vita.nn.architecture import Architecture
from vita.nn.families import weight_map
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFiles


class FolderWeights:
    """Own parameter names with their values; the files are not held in memory."""

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self._folder, self._map = folder, weight_map(architecture)
        self._places: dict[str, tuple[Path, str]] = {}
        """Own name -> the file and the tensor that hold it."""
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in hf.weight_files(ModelFiles.of(folder)):
            with hf.reading(path) as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    empty = torch.empty(file.get_slice(name).get_shape(), device="meta")
                    for own, part in self._map.to_own(name, empty):
                        self._places[own], self._shapes[own] = (path, name), tuple(part.shape)

    def __contains__(self, own: str) -> bool:
        return own in self._places

    def shape(self, own: str) -> tuple[int, ...]:
        """Return the shape of a parameter."""
        return self._shapes[own]

    def tensor(self, own: str) -> Tensor:
        """Return a parameter in the type of the file."""
        if own not in self._places:
            raise ModelError(f"{self._folder}: {own}", "missing from the weights")
        path, name = self._places[own]
        with hf.reading(path) as file:
            parts: Mapping[str, Tensor] = dict(self._map.to_own(name, file.get_tensor(name)))
        return parts[own]

    def __getitem__(self, own: str) -> np.ndarray:
        return self.tensor(own).float().contiguous().numpy()
