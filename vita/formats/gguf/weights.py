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
    """Parameters by the names of the decoder; they are read from the files when they are used."""

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self._folder, self._map = folder, weight_map(architecture)
        self._locations: dict[str, tuple[Path, str]] = {}
        """Parameter of the decoder -> the file and the tensor that contain it."""
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in hf.weight_files(ModelFiles.of(folder)):
            with hf.reading(path) as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    empty = torch.empty(file.get_slice(name).get_shape(), device="meta")
                    for parameter, part in self._map.to_own(name, empty):
                        self._locations[parameter], self._shapes[parameter] = (path, name), tuple(part.shape)

    def __contains__(self, parameter: str) -> bool:
        return parameter in self._locations

    def shape(self, parameter: str) -> tuple[int, ...]:
        """Return the shape of a parameter."""
        return self._shapes[parameter]

    def tensor(self, parameter: str) -> Tensor:
        """Return a parameter in the type of the file."""
        if parameter not in self._locations:
            raise ModelError(f"{self._folder}: {parameter}", "missing from the weights")
        path, name = self._locations[parameter]
        with hf.reading(path) as file:
            parts: Mapping[str, Tensor] = dict(self._map.to_own(name, file.get_tensor(name)))
        return parts[parameter]

    def __getitem__(self, parameter: str) -> np.ndarray:
        return self.tensor(parameter).float().contiguous().numpy()
