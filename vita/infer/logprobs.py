"""Logits and log-probabilities of tokens, and the embedding of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.infer.request import TokenScore
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError

# T position, V vocabulary, D width

PIECE = 512
"""Positions whose logits are in memory at the same time: logits are the largest tensor of a forward pass."""


def head_logits(model: Transformer, hidden: Float[Tensor, "T D"]) -> Float[Tensor, "T V"]:
    """Logits in float32 of outputs of the last layer."""
    return model.head.logits(hidden).float()


def token_scores(logits: Float[Tensor, "T V"], tokens: Sequence[int], *, top: int | None) -> list[TokenScore]:
    """Log-probabilities of `tokens`, and those of the `top` most likely tokens of each position.

    NaN and infinite logits are a `ModelError`.
    """
    logprobs = logits - logits.logsumexp(-1, keepdim=True)
    token_logprobs = logprobs.gather(-1, torch.tensor(list(tokens), device=logprobs.device)[:, None])[:, 0]
    if not token_logprobs.isfinite().all():
        raise nan_logits()
    if not top:
        return [TokenScore(token, logprob) for token, logprob in zip(tokens, token_logprobs.tolist(), strict=True)]
    best, ids = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), best.tolist(), strict=True)]
    return [TokenScore(*values) for values in zip(tokens, token_logprobs.tolist(), tops, strict=True)]


def prompt_scores(
    model: Transformer, ids: Sequence[int], hidden: Float[Tensor, "T D"], *, top: int | None
) -> tuple[TokenScore, ...]:
    """Scores of every token of a prompt but the first; `hidden` are the outputs of the last layer."""
    scores: list[TokenScore] = []
    for index, piece in enumerate(hidden[:-1].split(PIECE)):
        scores += token_scores(head_logits(model, piece), ids[1 + index * PIECE :][:PIECE], top=top)
    return tuple(scores)


def embedding(hidden: Float[Tensor, "T D"]) -> tuple[float, ...]:
    """The mean of the outputs of the last layer, of length 1; NaN is a `ModelError`."""
    mean = F.normalize(hidden.float().mean(0), dim=0)
    if not mean.isfinite().all():
        raise nan_logits()
    return tuple(mean.tolist())


def nan_logits() -> ModelError:
    """The error of a model that computes NaN."""
    return ModelError("generate", "the model's logits are not numbers", hint="its weights may hold NaN")
