"""Options of other backends and the bodies of constrained requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.server.serving import tiny_engine
from vita.nn import hf

VLLM = os.environ.get("VITA_TEST_VLLM")
"""Folder of an environment with vLLM; None: its tests skip."""
VLLM_OPTIONS = (
    "--backend", "vllm", "--backend-set", f"environment={VLLM}",
    "--backend-set", 'arguments=["--dtype=float32","--enforce-eager","--gpu-memory-utilization=0.2"]',
)  # fmt: skip
LLAMA_CPP_OPTIONS = ("--backend", "llama.cpp", "--backend-set", "quantization=f32")
MESSAGES: Any = [{"role": "user", "content": "a cat"}]
PET: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"enum": ["né", "猫", "x"]}},
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LOOKUP: Any = {"type": "function", "function": {"name": "lookup", "parameters": PET}}


def save_model(folder: Path, *, scale: float = 1.0, context: int = 512, **sizes: Any) -> None:
    """Save a random model of bytes whose weights are multiplied by `scale`."""
    engine = tiny_engine(context=context, **sizes)
    for parameter in engine.model.parameters():
        parameter.data.mul_(scale)
    hf.save(engine.model, folder)
    engine.tokenizer.save(folder)
    assert engine.template is not None
    engine.template.save(folder)


def response_format(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
