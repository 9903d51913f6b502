"""Pooling: one vector of a text from the outputs of the last layer.

states = text_states(model, ids, lengths)           # padding on the right is not attended to
pooled(states, lengths, "mean")
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vita.nn.transformer import Transformer

# B batch, T position, D width

Pooling = Literal["cls", "mean", "last"]
"""The output of the first token, the mean of the outputs of all tokens, or the output of the last token."""
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def text_states(
    model: Transformer, ids: Int[Tensor, "B T"], lengths: Int[Tensor, "B"], *, types: Int[Tensor, "B T"] | None = None
) -> Float[Tensor, "B T D"]:
    """Return the outputs of the last layer for texts that are padded on the right; `types` are token types."""
    architecture = model.architecture
    if architecture.causal:
        return model.hidden(ids)  # no token attends to the padding, which comes after it
    documents = padding_mask(ids, lengths).long()
    return model.hidden(ids, documents=documents, types=types if architecture.token_types else None)


def padding_mask(ids: Int[Tensor, "B T"], lengths: Int[Tensor, "B"]) -> Tensor:
    """Return True where a row is padding."""
    return torch.arange(ids.shape[1], device=ids.device)[None] >= lengths[:, None]


def pooled(states: Float[Tensor, "B T D"], lengths: Int[Tensor, "B"], pooling: Pooling) -> Float[Tensor, "B D"]:
    """Return one vector per text, without its padding."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), lengths - 1]
    kept = torch.arange(states.shape[1], device=states.device)[None] < lengths[:, None]
    sums = (states.float() * kept[..., None]).sum(1)
    return (sums / lengths[:, None].clamp(min=1)).to(states.dtype)
