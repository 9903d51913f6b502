"""Statistics of the numbers inside a model: weights, activations, attention scores, logits and the loss.

The model is not changed. For a new model the statistics show whether signals keep their scale through the layers and
whether the loss is ln V; for a trained model, which parts grew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vita.nn import attention
from vita.nn.transformer import Transformer
from vita.nn.wide_floats import widened

# B batch, H head, T position, S key; rows of `ids` have one extra token, the last target

MASKED_DISTANCE = 7
"""Distance of the masked positions in the statistics of an encoder."""


@torch.no_grad()
def report(model: Transformer, ids: Int[Tensor, "B T"], *, mask: int | None = None) -> dict[str, Any]:
    """Return statistics of the weights and of a forward pass over `ids`, rounded to six digits.

    The loss is that of the next tokens. With `mask`, the mask token of an encoder, it is that of masked positions.
    """
    inputs, targets = ids[:, :-1], ids[:, 1:]
    if mask is not None:
        inputs = inputs.clone()
        targets = ids[:, :-1][:, ::MASKED_DISTANCE]
        inputs[:, ::MASKED_DISTANCE] = mask
    with _recorded_statistics(model) as statistics:
        attend = _record_scores(model.attention, statistics["scores"])
        logits = widened(model(inputs, attention=attend))
    if mask is not None:
        logits = logits[:, ::MASKED_DISTANCE]
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    layers = [
        {name: statistics[name][index] for name in ("stream", "attention", "feedforward", "scores")}
        for index in range(model.architecture.layers)
    ]
    summary = {
        "parameters": {name: _weights(parameter) for name, parameter in model.named_parameters()},
        "embedding_rms": statistics["embedding"][0],
        "layers": layers,
        "logits": {"mean": logits.mean().item(), "std": logits.std().item(), "largest": logits.abs().max().item()},
        "loss": loss,
        "ln_vocabulary": math.log(model.architecture.vocabulary),
        "tokens": targets.numel(),
    }
    return _rounded(summary)


def _weights(parameter: Tensor) -> dict[str, Any]:
    values = widened(parameter)  # in float32 a mean near zero is dominated by rounding, and differs between runs
    return {
        "shape": list(parameter.shape),
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "norm": values.norm().item(),
    }


@contextmanager
def _recorded_statistics(model: Transformer) -> Iterator[dict[str, list[Any]]]:
    """Record the rms of the embeddings, of the residual stream, and of the output of each part of every layer."""
    statistics: dict[str, list[Any]] = {
        name: [] for name in ("embedding", "stream", "attention", "feedforward", "scores")
    }

    def record(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: statistics[name].append(widened(output).square().mean().sqrt().item())

    handles = [model.model.embed_tokens.register_forward_hook(record("embedding"))]
    for layer in model.model.layers:
        handles.append(layer.register_forward_hook(record("stream")))
        handles.append(layer.get_submodule("self_attn").register_forward_hook(record("attention")))
        handles.append(layer.get_submodule("mlp").register_forward_hook(record("feedforward")))
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()


def _record_scores(attend: attention.Attention, scores: list[Any]) -> attention.Attention:
    def attend_and_record(
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        visible: Tensor | None = None,
        options: attention.AttentionOptions = attention.PLAIN,
    ) -> Tensor:
        logits = widened(attention.logits(queries, keys, visible, options))
        visible_logits = logits[logits.isfinite()]
        scores.append(
            {
                "std": visible_logits.std().item(),
                "largest": visible_logits.abs().max().item(),
                "evenness": _evenness(logits),
            }
        )
        return attend(queries, keys, values, visible, options)

    return attend_and_record


def _evenness(scores: Float[Tensor, "B H T S"]) -> float:
    """Return the mean entropy of the attention relative to its maximum, over queries with more than one key."""
    entropy = torch.special.entr(scores.softmax(-1)).sum(-1)
    num_visible = scores.isfinite().sum(-1)
    shares = entropy[num_visible > 1] / num_visible[num_visible > 1].log()
    return shares.mean().item() if shares.numel() else 1.0


def _rounded(value: Any) -> Any:
    """Round to six significant digits, so that the order of summation does not matter."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
