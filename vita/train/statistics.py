"""Statistics of a training run at its evaluations: gradients and weights by part, and activations by layer.

    figures |= parameter_statistics(trainer)                  # after a step, while its gradients exist
    with observed_activations(trainer) as activations:
        heldout.evaluate(trainer)
    figures |= activations.figures()

They read values that a step or an evaluation computes in any case, and do not change the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vita.nn.wide_floats import widened
from vita.train.parallel.sharding import gradient_norm
from vita.train.trainer import Trainer

MOST_LAYERS = 6
"""Maximum number of layers whose activations are recorded: the first, the last, and layers between them."""
_PARTS = (
    ("embedding", re.compile(r"embed_")),
    ("attention", re.compile(r"\.self_attn\.(?!.*norm)")),
    ("feed-forward", re.compile(r"\.mlp\.")),
    ("norms", re.compile(r"norm")),
    ("head", re.compile(r"head")),
)
"""Part of the model -> pattern of the names of its parameters; the first match counts."""


@torch.no_grad()
def parameter_statistics(trainer: Trainer) -> dict[str, float]:
    """Return the norm of the gradients and the root mean square of the weights of each part of the model.

    Gradients are those of the last step after clipping; without gradients, only the weights are returned. Several
    processes call it together, and return no values of the weights, which they divide.
    """
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in trainer.master_params.items():
        groups.setdefault(part_of(name), {})[name] = parameter
    figures: dict[str, float] = {}
    for part, parameters in groups.items():
        if any(parameter.grad is not None for parameter in parameters.values()):
            figures[f"gradient_norm/{part}"] = gradient_norm(parameters, trainer.layouts, trainer.world).item()
        if trainer.world.processes == 1:
            count = sum(parameter.numel() for parameter in parameters.values())
            norm = torch.nn.utils.get_total_norm(parameters.values()).item()
            figures[f"weight_rms/{part}"] = norm / count**0.5
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


def part_of(name: str) -> str:
    """Return the part of the model that a parameter belongs to."""
    return next((part for part, pattern in _PARTS if pattern.search(name)), "other")


class ActivationStatistics:
    """The root mean square of the residual stream after some layers, over all tokens of an evaluation."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}

    def add(self, layer: int, states: Tensor) -> None:
        """Add the output of a layer."""
        square = widened(states.detach().float().pow(2).sum())
        self._sums[layer] = self._sums[layer] + square if layer in self._sums else square
        self._counts[layer] = self._counts.get(layer, 0) + states.numel()

    def figures(self) -> dict[str, float]:
        """Return the values by layer, over all processes; {} if no layer was computed."""
        if not self._sums:
            return {}
        layers = sorted(self._sums)
        values = [self._sums[layer] for layer in layers]
        counts = [
            torch.tensor(float(self._counts[layer]), dtype=values[0].dtype, device=values[0].device) for layer in layers
        ]
        totals = self._trainer.world.total(torch.stack([*values, *counts])).tolist()
        squares, numbers = totals[: len(layers)], totals[len(layers) :]
        return {
            f"activation_rms/layer {layer + 1}": float(f"{(square / max(1.0, number)) ** 0.5:.6g}")
            for layer, square, number in zip(layers, squares, numbers, strict=True)
        }


@contextmanager
def observed_activations(trainer: Trainer) -> Iterator[ActivationStatistics]:
    """Record the outputs of some layers while the model computes."""
    statistics = ActivationStatistics(trainer)
    decoder = trainer.learner.model.model
    observed = frozenset(observed_layers(len(decoder.layers)))

    def add_output(layer: int, states: Tensor) -> None:
        # Passes of generation depend on what was generated before, in a resumed run too.
        if layer in observed and not torch.is_inference_mode_enabled():
            statistics.add(layer, states)

    decoder.observer = add_output
    try:
        yield statistics
    finally:
        decoder.observer = None


def observed_layers(count: int) -> list[int]:
    """Return the indices of at most `MOST_LAYERS` evenly spaced layers, with the first and the last."""
    if count <= MOST_LAYERS:
        return list(range(count))
    return sorted({round(index * (count - 1) / (MOST_LAYERS - 1)) for index in range(MOST_LAYERS)})
