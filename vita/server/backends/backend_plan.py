"""The refusal of a backend before a life runs: a program that is missing, or that cannot serve such a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita.server.backend_settings import BackendSettings


def why_unsupported(settings: BackendSettings, traits: Mapping[str, Any] | None) -> str | None:
    """Return the reason why a backend cannot serve a model with these traits, None if none is known.

    Raises `MissingExtra` or `ConfigError` for a program that is not installed, and for unknown settings of it.
    """
    if settings.program == "vita":
        return _why_not_quantized(settings, traits)
    _require_program(settings)
    if traits is None:
        return None
    if not traits["causal"]:
        return f"it is an encoder, which the backend `{settings.program}` does not serve; use `vita`"
    if traits.get("classifier"):
        return f"it is a sequence classifier, which the backend `{settings.program}` does not serve; use `vita`"
    if settings.program == "llama.cpp":
        from vita.formats.gguf.architectures import GRAPHS

        if traits["family"] not in GRAPHS:
            return f"llama.cpp has no graph for `{traits['family']}`; use the backend `vita`"
    return None


def _why_not_quantized(settings: BackendSettings, traits: Mapping[str, Any] | None) -> str | None:
    if settings.weight_format is None:
        return None
    from vita.nn.weight_quantization import require_kernels

    require_kernels(settings.weight_format)
    if traits is not None and (not traits["causal"] or traits.get("classifier")):
        return "it reads whole texts, which the backend `vita` serves with float32 weights; leave out `quantization`"
    return None


def _require_program(settings: BackendSettings) -> None:
    from vita.formats.gguf.packages import gguf
    from vita.formats.gguf.quantization import check_quantization
    from vita.server.backends.programs import require_llama_cpp, require_vllm

    if settings.program == "llama.cpp":
        require_llama_cpp()
        gguf()
        check_quantization(settings.gguf_type)
    if settings.program == "vllm":
        require_vllm(settings)
