"""Small fakes for tests: a model of a few thousand parameters and a tokenizer of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.nn.architecture import Architecture
    from vita.nn.transformer import Transformer


def tiny_architecture(**changes: Any) -> Architecture:
    """Two layers of width 32 with grouped queries; `changes` replace single sizes."""
    from vita.nn.architecture import Architecture

    sizes = {"vocabulary": 259, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8}
    return Architecture.model_validate({**sizes, "feedforward": 48, "context": 64, **changes})


def tiny_model(*, seed: int = 0, std: float = 0.2, **changes: Any) -> Transformer:
    """A `tiny_architecture` with random weights, norms too, large enough that its answers are not all alike."""
    import torch

    from vita.nn.transformer import Transformer

    model = Transformer(tiny_architecture(**changes))
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(centre + std * torch.randn(parameter.shape, generator=chance))
    return model


def byte_tokenizer() -> Tokenizer:
    """256 bytes and the three special tokens: no merges, 259 ids."""
    from vita.data.tokens.tokenizer import Tokenizer

    return Tokenizer.train([], vocabulary=259)
