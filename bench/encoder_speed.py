"""Speed of an encoder: forward and backward pass of the masked-language loss, Vita beside transformers, in turns.

    python -m bench.encoder_speed --rounds 3 --seconds 10

Both compute the same ModernBERT from the same folder on the same masks: width 256, 6 layers, 4 heads, vocabulary 4096,
16 rows of 256 tokens, of which 30 % are masked, float32. The loss and the norm of its gradient must agree. transformers
runs as it is, with logits at all positions, and with `sparse_prediction`, which computes them at masked positions only,
as Vita does. Each contender runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.passes import OURS, run

PEERS = {"transformers": False, "transformers sparse_prediction": True}
"""Contender -> whether transformers computes the logits of masked positions only."""
VOCABULARY, ROWS, CONTEXT, RATE = 4096, 16, 256, 0.3


def save_model(folder: Path) -> None:
    """Write the model with random weights."""
    from vita.design.scaling_rules import shape_of_depth
    from vita.nn import hf
    from vita.nn.init import initialize
    from vita.nn.transformer import Transformer

    model = Transformer(shape_of_depth(6, vocabulary=VOCABULARY, context=CONTEXT, width=256, encoder=True))
    initialize(model, "normal")
    hf.save(model, folder)


def prepare(name: str, folder: Path) -> tuple[Any, Callable[[], Any], int]:
    """Return the model of a contender, its masked-language loss of a batch, and the tokens of the batch."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (ROWS, CONTEXT), generator=generator)
    count = round(RATE * CONTEXT)
    slots = torch.stack([torch.randperm(CONTEXT, generator=generator)[:count].sort().values for _ in range(ROWS)])
    targets = ids.gather(1, slots)
    inputs = ids.scatter(1, slots, VOCABULARY - 1)
    model, loss = _vita(folder) if name == OURS else _transformers(folder, sparse=PEERS[name])
    return model, lambda: loss(inputs, slots, targets), ids.numel()


def _vita(folder: Path) -> tuple[Any, Callable[..., Any]]:
    import torch

    from vita.nn import hf
    from vita.train.masked import masked_language_modelling

    model = hf.load(folder)

    def loss(inputs: Any, slots: Any, targets: Any) -> Any:
        tensors = {"ids": inputs, "slots": slots, "targets": targets, "learn": torch.ones_like(slots, dtype=torch.bool)}
        return masked_language_modelling(model, tensors)[0] / targets.numel()

    return model, loss


def _transformers(folder: Path, *, sparse: bool) -> tuple[Any, Callable[..., Any]]:
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, sparse_prediction=sparse)

    def loss(inputs: Any, slots: Any, targets: Any) -> Any:
        labels = inputs.new_full(inputs.shape, -100).scatter(1, slots, targets)
        return model(inputs, labels=labels).loss

    return model, loss


if __name__ == "__main__":
    run("bench.encoder_speed", subject="an encoder", peers=list(PEERS), save_model=save_model, prepare=prepare)
