"""A digest of the trainable weights of a model, which detects changes."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """Return a digest of all trainable weights."""
    return fingerprint_of((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def fingerprint_of(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Return a digest of weights and their names, in this order."""
    digest = xxhash.xxh3_128()
    for name, weight in weights:
        digest.update(name.encode())
        digest.update(weight.detach().to("cpu").float().numpy().tobytes())
    return digest.hexdigest()
