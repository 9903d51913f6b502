"""The decision whether to compile a model for training, and the compilation of its layers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vita.nn.adapters.attach import adapter_of
from vita.nn.transformer import Transformer
from vita.spine.errors import ConfigError
from vita.spine.machine import disables_compilation
from vita.train.settings import StepSettings

MIN_COMPILE_FLOPS = {"cpu": 2e13, "cuda": 1e16}
"""Minimum operations of a run for which compilation saves more time than it takes: about half a minute of work."""


def should_compile(model: Transformer, settings: StepSettings, *, device: str, flops: float) -> bool:
    """Decide by the settings and the operations of the run; raise `ConfigError` if `compile: yes` is impossible."""
    if settings.compile == "no":
        return False
    if problem := obstacle(model, settings, device):
        if settings.compile == "yes":
            raise ConfigError("compile", problem, hint="set `compile: no`")
        return False
    if settings.compile == "yes":
        if not can_compile(device):
            hint = "install a C++ compiler and Python's headers, or set `compile: no`"
            raise ConfigError("compile", "this machine cannot compile", hint=hint)
        return True
    pays = flops >= MIN_COMPILE_FLOPS.get(torch.device(device).type, float("inf"))
    return pays and can_compile(device)


def obstacle(model: Transformer, settings: StepSettings, device: str) -> str | None:
    """Return the reason why the model cannot be compiled, or None."""
    adapter = adapter_of(model)
    if adapter and (adapter.config.dropout or adapter.quantization.kind != "none"):
        return "an adapter with dropout or a quantized base cannot be compiled"
    if settings.recompute_activations and torch.device(device).type == "cpu":
        return "cannot be combined with `recompute_activations`"
    if model.architecture.experts:  # the number of tokens of an expert differs between batches
        return "a mixture of experts cannot be compiled"
    return None


WIDTH_BY_LAYER = 512
"""Minimum width of a model whose layers are compiled by themselves on a CPU."""


def compiles_by_layer(width: int, *, device: str) -> bool:
    """Return True if the layers of a model of this width, and the loss, are compiled by themselves on a device.

    Equal layers share their code, so that the first step comes earlier: at 768x12 on a CPU after 39 instead of 90
    seconds of processor time. On a GPU it came after more than 130 seconds when the whole model was compiled. The
    compiler of the whole model saves passes over memory, which makes the steps of narrow models on a CPU 5% faster.
    """
    return torch.device(device).type == "cuda" or width >= WIDTH_BY_LAYER


MAX_VARIANTS = 64
"""Maximum number of variants of a compiled function: shapes of micro-batches, layers with windows, and stages of a life
in one process. PyTorch's limit of 8 is for functions whose shapes change all the time."""


def compile_layers(model: Transformer) -> None:
    """Compile the layers by themselves; equal layers share their code.

    FSDP gathers and releases parameters between layers, so it needs this too.
    """
    _allow_variants()
    for layer in model.model.layers:
        layer.compile(fullgraph=True, dynamic=False)


@lru_cache
def compiled_region(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is compiled by itself."""
    _allow_variants()
    return torch.compile(function, fullgraph=True, dynamic=False)


def _allow_variants() -> None:
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MAX_VARIANTS)


@lru_cache
def can_compile(device: str) -> bool:
    """Return True if a small function compiles and runs; headers or a compiler may be missing, or it is disabled."""
    if disables_compilation():
        return False
    if torch.device(device).type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        return False
    try:
        torch.compile(_add_one, dynamic=False)(torch.zeros(8, device=device))
    except (RuntimeError, OSError, ImportError):
        return False
    return True


def _add_one(values: Tensor) -> Tensor:
    return values + 1
