"""Predicted memory of LoRA and QLoRA at the shapes of published models, compared with the requirement of Unsloth.

    python -m bench.adapter_memory --save bench/results/adapter_memory.jsonl

The models have no values (meta device), so the program needs neither weights nor a GPU. Unsloth states the minimum
memory of a GPU for models of 8B parameters (docs.unsloth.ai, Unsloth requirements): 6 GB for QLoRA (4 bits), 22 GB for
LoRA (16 bits).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vita.design.tuning_memory import meta_model, tuning_memory
from vita.nn.adapters.settings import AdapterSettings
from vita.nn.architecture import Architecture

QWEN3 = {"vocabulary": 151936, "kv_heads": 8, "head_dim": 128, "context": 40960, "rope_base": 1e6}
SHAPES = {
    "Qwen3-0.6B": {**QWEN3, "width": 1024, "layers": 28, "heads": 16, "feedforward": 3072, "tied": True},
    "Qwen3-8B": {**QWEN3, "width": 4096, "layers": 36, "heads": 32, "feedforward": 12288, "tied": False},
}
METHODS = ("lora", "qlora")
TOKENS = (512, 2048)
PUBLISHED = {("Qwen3-8B", "lora"): 22.0, ("Qwen3-8B", "qlora"): 6.0}
"""Published gigabytes of Unsloth for 8B parameters."""


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON line per shape, method and size of the micro-batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="also write the lines to this file")
    options = parser.parse_args(arguments)
    lines = []
    for name, sizes in SHAPES.items():
        for method in METHODS:
            model = meta_model(Architecture.model_validate(sizes), AdapterSettings.model_validate({"type": method}))
            for tokens in TOKENS:
                for recomputes in (False, True):
                    memory = tuning_memory(model, tokens=tokens, number_bytes=2, recomputes=recomputes)
                    gigabytes = {part: round(size / 1e9, 3) for part, size in memory.items()}
                    row = {"figure": "predicted memory", "value": gigabytes.pop("total"), "unit": "GB", "model": name,
                           "method": method, "micro_batch_tokens": tokens, "recompute_activations": recomputes,
                           "parts": gigabytes}  # fmt: skip
                    if published := PUBLISHED.get((name, method)):
                        row |= {"peer": "Unsloth, published requirement", "peer_value": published}
                    lines.append(json.dumps(row))
    print("\n".join(lines))
    if options.save:
        options.save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
