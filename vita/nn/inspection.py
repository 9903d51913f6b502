"""What the numbers inside a model look like: weights, activations, attention scores, logits and the loss.

Nothing here changes the model. Of a freshly initialized one it says whether signals keep their size through the layers
and whether the loss is ln V; of a trained one, where it grew.
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
from vita.nn.transformer import SelfAttention, Transformer

# B batch, H head, T position, S key; rows of `ids` hold one token more than the model reads, the last target


@torch.no_grad()
def report(model: Transformer, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
    """Statistics of the weights, and of a forward pass over `ids`, rounded to six digits."""
    with _listening(model) as heard:
        logits = model(ids[:, :-1]).double()
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()
    layers = [
        {name: heard[name][index] for name in ("stream", "attention", "feedforward", "scores")}
        for index in range(model.architecture.layers)
    ]
    found = {
        "parameters": {name: _weights(parameter) for name, parameter in model.named_parameters()},
        "embedding_rms": heard["embedding"][0],
        "layers": layers,
        "logits": {"mean": logits.mean().item(), "std": logits.std().item(), "largest": logits.abs().max().item()},
        "loss": loss,
        "ln_vocabulary": math.log(model.architecture.vocabulary),
        "tokens": ids[:, 1:].numel(),
    }
    return _rounded(found)


def _weights(parameter: Tensor) -> dict[str, Any]:
    values = parameter.double()  # a mean near zero is all rounding in float32, and differs from run to run
    return {
        "shape": list(parameter.shape),
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "norm": values.norm().item(),
    }


@contextmanager
def _listening(model: Transformer) -> Iterator[dict[str, list[Any]]]:
    """Notes what passes: rms of the embeddings, and of the stream and what each part adds to it in every layer."""
    heard: dict[str, list[Any]] = {name: [] for name in ("embedding", "stream", "attention", "feedforward", "scores")}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: heard[name].append(output.double().square().mean().sqrt().item())

    handles = [model.model.embed_tokens.register_forward_hook(note("embedding"))]
    parts: list[SelfAttention] = []
    for layer in model.model.layers:
        parts.append(layer.get_submodule("self_attn"))  # pyright: ignore[reportArgumentType]
        handles.append(layer.register_forward_hook(note("stream")))
        handles.append(layer.get_submodule("self_attn").register_forward_hook(note("attention")))
        handles.append(layer.get_submodule("mlp").register_forward_hook(note("feedforward")))
    before = [part.attend for part in parts]
    try:
        for part in parts:
            part.attend = _noting_scores(part.attend, heard["scores"])
        yield heard
    finally:
        for part, attend in zip(parts, before, strict=True):
            part.attend = attend
        for handle in handles:
            handle.remove()


def _noting_scores(attend: attention.Attention, scores: list[Any]) -> attention.Attention:
    def listened(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
        found = attention.logits(queries, keys, visible).double()
        seen = found[found.isfinite()]
        scores.append({"std": seen.std().item(), "largest": seen.abs().max().item(), "evenness": _evenness(found)})
        return attend(queries, keys, values, visible)

    return listened


def _evenness(scores: Float[Tensor, "B H T S"]) -> float:
    """Mean entropy of the attention as a share of the most it could be; queries that see one key have none."""
    entropy = torch.special.entr(scores.softmax(-1)).sum(-1)
    seen = scores.isfinite().sum(-1)
    shares = entropy[seen > 1] / seen[seen > 1].log()
    return shares.mean().item() if shares.numel() else 1.0


def _rounded(value: Any) -> Any:
    """Six significant digits, so that another order of summation does not look like another model."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_rounded(below) for below in value]
    return value
