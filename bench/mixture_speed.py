"""Speed of a mixture of experts: forward and backward pass of Vita beside transformers, in turns.

    python -m bench.mixture_speed --rounds 3 --seconds 10

Both compute the same Qwen3-MoE model from the same folder on the same tokens: width 256, 4 layers, 16 experts of width
160 with 4 active, vocabulary 4096, 8 x 256 tokens, float32. The loss and the norm of its gradient must agree.
transformers runs with each of its implementations of experts for a CPU: a loop over experts (`eager`) and
`grouped_mm`. Each contender runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.passes import OURS, run

PEERS = {"transformers eager": "eager", "transformers grouped_mm": "grouped_mm"}
"""Contender -> the implementation of experts in transformers."""
ROWS, CONTEXT = 8, 256


def save_model(folder: Path) -> None:
    """Write the model with random weights."""
    from vita.nn import hf
    from vita.nn.architecture import Architecture, Experts
    from vita.nn.init import initialize
    from vita.nn.transformer import Transformer

    experts = Experts(count=16, active=4, feedforward=160)
    architecture = Architecture(
        family="qwen3_moe", vocabulary=4096, width=256, layers=4, heads=8, kv_heads=4, head_dim=32, feedforward=640,
        context=CONTEXT, tied=False, experts=experts,
    )  # fmt: skip
    model = Transformer(architecture)
    initialize(model, "fan_in")
    hf.save(model, folder)


def prepare(name: str, folder: Path) -> tuple[Any, Callable[[], Any], int]:
    """Return the model of a contender, its loss of a batch, and the tokens of the batch."""
    import torch

    ids = torch.randint(0, 4096, (ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    model, loss = _vita(folder) if name == OURS else _transformers(folder, PEERS[name])
    return model, lambda: loss(ids), ROWS * CONTEXT


def _vita(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    from vita.nn import hf
    from vita.train.losses import language_modelling

    model = hf.load(folder)
    return model, lambda ids: language_modelling(model, {"ids": ids})[0] / ids[:, 1:].numel()


def _transformers(folder: Path, experts: str) -> tuple[Any, Callable[[Any], Any]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, experts_implementation=experts)

    def loss(ids: Any) -> Any:
        from torch.nn import functional as F

        logits = model(ids[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return model, loss


if __name__ == "__main__":
    run("bench.mixture_speed", subject="a mixture", peers=list(PEERS), save_model=save_model, prepare=prepare)
