"""Memory of a tuning run, by purpose: weights in their number format, and gradients and optimizer of trainable weights.

    memory = tuning_memory(meta_model(architecture, settings), tokens=2048, number_bytes=2)
    memory["weights"], memory["optimizer"], memory["total"]

The model may be on the meta device, so that models of any size can be estimated. Activations are those that the
backward pass needs with fused attention.
"""

from __future__ import annotations

import torch

from vita.nn.adapters.attach import BaseQuantization, adapted_linears, attach
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.quantization import QuantizedLinear
from vita.nn.adapters.settings import AdapterSettings
from vita.nn.adapters.stacked import stacked_updates
from vita.nn.architecture import Architecture
from vita.nn.transformer import Transformer
from vita.train.microbatches import logit_memory

MASTER_BYTES, GRADIENT_BYTES, ADAMW_BYTES = 4, 4, 8
"""Bytes per trainable parameter: float32 weights and gradients, and the two moments of AdamW."""


def meta_model(architecture: Architecture, adapter: AdapterSettings | None) -> Transformer:
    """Return a model without values, with a new adapter if there are settings."""
    with torch.device("meta"):
        model = Transformer(architecture)
        if adapter is not None:
            quantization = BaseQuantization(adapter.quantization, adapter.double_quantization)
            attach(model, LoraConfig.of(adapter), quantization=quantization)
    return model


def tuning_memory(
    model: Transformer,
    *,
    tokens: int,
    number_bytes: int,
    optimizer: int | None = None,
    recomputes: bool = False,
    logit_bytes: int | None = None,
) -> dict[str, int]:
    """Return the bytes by purpose, and their sum in `total`.

    `tokens` is the size of a micro-batch, `number_bytes` the size of the numbers of matrix products: 4 or 2.
    `optimizer` is the size of the optimizer state, by default that of AdamW. With `recomputes`, the activations of a
    layer are computed again in the backward pass. `logit_bytes` limits a chunk of logits (`vita.train.hardware`).
    """
    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    quantized = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    codes = sum(buffer.numel() * buffer.element_size() for module in quantized for buffer in module.buffers())
    largest = max((module.in_features * module.out_features for module in quantized), default=0)
    copies = number_bytes * trainable if number_bytes < MASTER_BYTES else 0
    adapters = [*adapted_linears(model).values(), *stacked_updates(model).values()]
    ranks = sum(layer.rank for layer in adapters)
    activations = model.architecture.stored_activations() + ranks
    if recomputes:  # the input of each layer, and all activations of one layer
        layers = model.architecture.layers
        activations = layers * model.architecture.width + activations // layers
    purposes = {
        "weights": number_bytes * frozen + codes + MASTER_BYTES * trainable + copies,
        "gradients": GRADIENT_BYTES * trainable,
        "optimizer": ADAMW_BYTES * trainable if optimizer is None else optimizer,
        "activations": tokens * number_bytes * activations,
        "logits": logit_memory(
            tokens, vocabulary=model.architecture.vocabulary, number_bytes=number_bytes, logit_bytes=logit_bytes
        ),
        "dequantized": number_bytes * largest,
    }
    return {**purposes, "total": sum(purposes.values())}


def weight_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of all parameters and buffers of a model."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
