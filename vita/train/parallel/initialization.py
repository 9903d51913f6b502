"""Weights of a model on the meta device: each process materializes only its parts.

    materialize(learner, model, layouts, world, source=StoredWeights(files))

The weights are those of the complete model, bit for bit: tensors are read or drawn one at a time, and each process
keeps its part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from vita.nn import hf
from vita.nn.init import initial_values
from vita.nn.transformer import Transformer
from vita.spine.model_files import ModelFiles, ModelFolder
from vita.train.parallel.boxes import Box, TensorLayout
from vita.train.parallel.mesh import ProcessMesh, local_shard


class WeightSource(Protocol):
    """A source of all weights of a model."""

    def read(self, model: Transformer, write: Callable[[str, Tensor], None]) -> Tensor | None:
        """Pass all tensors to `write`, one at a time; `model`, on the meta device, has the shapes.

        Returns the output head, if it is stored although it is tied.
        """
        ...


@dataclass(frozen=True)
class StoredWeights:
    """The weights in a model folder, which must be finite."""

    folder: ModelFolder

    def read(self, model: Transformer, write: Callable[[str, Tensor], None]) -> Tensor | None:
        """Pass all tensors of the folder to `write`; raise `ModelError` if one is missing or not finite."""
        names: list[str] = []

        def check_and_write(name: str, tensor: Tensor) -> None:
            if not bool(torch.isfinite(tensor).all()):
                names.append(name)
            write(name, tensor)

        head = hf.read_weights(model, self.folder, check_and_write)
        hf.refuse_nonfinite(names, self.folder)
        return head


@dataclass(frozen=True)
class InitialWeights:
    """Random weights of an initialization scheme."""

    scheme: str = "normal"
    seed: int = 0

    def read(self, model: Transformer, write: Callable[[str, Tensor], None]) -> None:
        """Draw all tensors."""
        for name, _ in model.named_parameters():
            write(name, initial_values(name, model, self.scheme, seed=self.seed))


def is_on_meta(model: nn.Module) -> bool:
    """Return True if the model has no memory for its weights yet."""
    return any(parameter.device.type == "meta" for parameter in model.parameters())


def materialize(
    learner: nn.Module,
    model: Transformer,
    layouts: Mapping[str, TensorLayout],
    world: ProcessMesh,
    *,
    source: WeightSource,
) -> None:
    """Allocate the local parts of all weights of `model`, which `learner` contains, and set their values."""
    learner.to_empty(device=world.device)
    model.model.reset_tables()
    with torch.device("meta"):
        complete = model.empty_copy()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    @torch.no_grad()
    def write(name: str, tensor: Tensor) -> None:
        name, _, expert = name.replace("].weight", "").partition("[")
        if expert:
            _write_expert(
                local_shard(parameters[f"{name}.weight"]), tensor, int(expert), world.box(layouts[f"{name}.weight"])
            )
        elif name in parameters:
            local_shard(parameters[name]).copy_(world.box(layouts[name]).of(tensor))
        else:
            buffers[name].copy_(tensor)

    head = source.read(complete, write)
    if head is not None and isinstance(source, StoredWeights):
        name = "model.embed_tokens.weight"
        part = world.box(layouts[name]).of(head).to(local_shard(parameters[name]))
        if world.any(not torch.equal(part, local_shard(parameters[name]))):
            raise hf.unequal_head(ModelFiles.of(source.folder))


def _write_expert(part: Tensor, matrix: Tensor, expert: int, box: Box) -> None:
    """Write the part of the matrix of an expert, if the box of this process contains it."""
    if box.starts[0] <= expert < box.starts[0] + box.sizes[0]:
        part[expert - box.starts[0]].copy_(Box(box.starts[1:], box.sizes[1:]).of(matrix))
