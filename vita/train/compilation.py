"""The decision whether to compile a model for training, and the compilation of its layers."""

from __future__ import annotations

import shutil

import torch
from torch import Tensor

from vita.nn.adapters.attach import adapter_of
from vita.nn.transformer import Transformer
from vita.spine.errors import ConfigError
from vita.train.settings import StepSettings

MIN_COMPILE_FLOPS = {"cpu": 2e13, "cuda": 1e16}
"""Minimum operations of a run for which compilation saves more time than it takes: about half a minute of work."""


def should_compile(model: Transformer, settings: StepSettings, *, device: str, flops: float) -> bool:
    """Decide by the settings and the operations of the run; raise `ConfigError` if `compile: yes` is impossible."""
    if settings.compile == "no":
        return False
    if problem := _obstacle(model, settings):
        if settings.compile == "yes":
            raise ConfigError("compile", problem, hint="set `compile: no`")
        return False
    if settings.compile == "yes":
        if not _can_compile(device):
            hint = "install a C++ compiler and Python's headers, or set `compile: no`"
            raise ConfigError("compile", "this machine cannot compile", hint=hint)
        return True
    pays = flops >= MIN_COMPILE_FLOPS.get(torch.device(device).type, float("inf"))
    return pays and _can_compile(device)


def _obstacle(model: Transformer, settings: StepSettings) -> str | None:
    """Return the reason why the model cannot be compiled, or None."""
    adapter = adapter_of(model)
    if adapter and (adapter.config.dropout or adapter.quantization.kind != "none"):
        return "an adapter with dropout or a quantized base cannot be compiled"
    if settings.recompute_activations:
        return "cannot be combined with `recompute_activations`"
    if model.architecture.experts:  # the number of tokens of an expert differs between batches
        return "a mixture of experts cannot be compiled"
    return None


def compile_layers(model: Transformer) -> None:
    """Compile each layer by itself, because FSDP gathers and releases parameters between them."""
    for layer in model.model.layers:
        layer.compile(fullgraph=True, dynamic=False)


def _can_compile(device: str) -> bool:
    """Return True if a small function compiles and runs; headers or a compiler may be missing."""
    if torch.device(device).type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        return False
    try:
        torch.compile(_add_one, dynamic=False)(torch.zeros(8, device=device))
    except (RuntimeError, OSError, ImportError):
        return False
    return True


def _add_one(values: Tensor) -> Tensor:
    return values + 1
