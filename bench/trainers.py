"""Training steps of several systems at one shape: functions that run a complete step on a batch of ids.

`TRAINERS[name](shape)` creates a model with its optimizer, as users of the system would, and returns a `Trainer`. The
libraries are imported inside the functions, so that a missing library affects only one system.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of the decoder and of a step; the defaults give 6.6M parameters.

    `Shape.named("768x12")` has the sizes that Vita designs for width 768 and 12 layers, in the architecture of Qwen3.
    """

    vocabulary: int = 4096
    width: int = 256
    layers: int = 6
    heads: int = 8
    feedforward: int = 640
    context: int = 256
    rows: int = 16

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the shape WIDTHxLAYERS with heads of 64, a vocabulary of 8,192 and 8,192 tokens per step."""
        width, layers = map(int, name.split("x"))
        context = 512 if width <= 512 else 1024
        return cls(
            vocabulary=8192,
            width=width,
            layers=layers,
            heads=width // 64,
            feedforward=-(-8 * width // 192) * 64,
            context=context,
            rows=8192 // context,
        )

    @property
    def tokens(self) -> int:
        return self.rows * self.context

    def flops_per_token(self, matrix_parameters: int) -> float:
        """Operations of forward and backward: six per weight, and attention over (context + 1) / 2 keys on average."""
        return 6 * matrix_parameters + 12 * self.layers * self.width * (self.context + 1) / 2


@dataclass(frozen=True)
class Trainer:
    """A training step `step(ids [rows, context + 1])`, which returns the mean loss."""

    step: Callable[[Tensor], float]
    parameters: int
    flops_per_token: float
    dtype: str


def vita(shape: Shape, *, dtype: str, compiled: str = "yes", document: int = 0) -> Trainer:
    """The `Trainer` of Vita with Muon and AdamW, as in the stage `pretrain`; "auto" selects the precision.

    With `document`, attention is restricted to documents of that number of tokens.
    """
    from vita.nn.architecture import Architecture
    from vita.nn.init import initialize
    from vita.nn.transformer import Transformer
    from vita.train.losses import language_modelling
    from vita.train.trainer import StepBatch, TrainerConfig
    from vita.train.trainer import Trainer as VitaTrainer

    architecture = Architecture.model_validate(
        {
            "vocabulary": shape.vocabulary,
            "width": shape.width,
            "layers": shape.layers,
            "heads": shape.heads,
            "kv_heads": shape.heads,
            "head_dim": shape.width // shape.heads,
            "feedforward": shape.feedforward,
            "context": shape.context,
            "tied": False,
        }
    )
    model = Transformer(architecture)
    initialize(model, "normal", seed=0)
    settings = {"schedule": {"steps": 1000}, "precision": dtype, "compile": compiled}
    trainer = VitaTrainer(
        model, language_modelling, TrainerConfig.model_validate(settings), threads=torch.get_num_threads()
    )

    def step(ids: Tensor) -> float:
        tensors = {"ids": ids}
        if document:
            tensors["documents"] = (torch.arange(ids.numel()) // document).view_as(ids)
        return trainer.step(StepBatch(tensors, targets=ids[:, 1:].numel())).loss

    flops = shape.flops_per_token(architecture.matrix_parameters())
    return Trainer(step, _count(model), flops, trainer.precision.name)


def transformers(shape: Shape, *, dtype: str, compiled: bool = False) -> Trainer:
    """Qwen3 of transformers with its loss and the default optimizer of its Trainer (fused AdamW)."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.feedforward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            head_dim=shape.width // shape.heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=False,
            use_cache=False,
        )
    ).train()

    def loss(ids: Tensor) -> Tensor:
        # The model shifts the labels, so it gets one column less, which is one prediction less per row.
        return model(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss

    return _with_adamw(model, loss, shape, dtype=dtype, compiled=compiled)


def plain(shape: Shape, *, dtype: str, compiled: bool = False) -> Trainer:
    """The plain PyTorch decoder of `bench.plain` with fused AdamW."""
    from bench.plain import Plain

    model = Plain(
        vocabulary=shape.vocabulary,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        feedforward=shape.feedforward,
        context=shape.context,
    )

    def loss(ids: Tensor) -> Tensor:
        return model(ids[:, :-1], ids[:, 1:])

    return _with_adamw(model, loss, shape, dtype=dtype, compiled=compiled)


def nanochat(shape: Shape, *, dtype: str) -> Trainer:
    """The model of a nanochat checkout with its Muon and AdamW, compiled as in its training script.

    The environment sets the dtype (NANOCHAT_DTYPE). The model has more parameters because of its value embeddings, and
    its feed-forward part has two matrices of four times the width.
    """
    from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found]

    config = GPTConfig(
        sequence_len=shape.context,
        vocab_size=shape.vocabulary,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_kv_head=shape.heads,
        n_embd=shape.width,
        window_pattern="L",
    )
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu")
    model.init_weights()
    optimizer = model.setup_optimizer()
    run = torch.compile(model, dynamic=False)

    def step(ids: Tensor) -> float:
        loss = run(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        return loss.item()

    return Trainer(step, _count(model), shape.flops_per_token(model.num_matmul_params()), dtype)


def _with_adamw(
    model: torch.nn.Module, loss: Callable[[Tensor], Tensor], shape: Shape, *, dtype: str, compiled: bool
) -> Trainer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    compute: Callable[[Tensor], Tensor] = torch.compile(loss, dynamic=False) if compiled else loss
    cast: Callable[[], Any] = partial(torch.autocast, "cpu", torch.bfloat16) if dtype == "bfloat16" else nullcontext

    def step(ids: Tensor) -> float:
        with cast():
            value = compute(ids)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.item()

    embedding = shape.vocabulary * shape.width
    matrices = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2) - embedding
    return Trainer(step, _count(model), shape.flops_per_token(matrices), dtype)


def _count(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


TRAINERS: dict[str, Callable[[Shape], Trainer]] = {
    "vita": partial(vita, dtype="auto"),
    "vita masked": partial(vita, dtype="auto", document=600),
    "vita not compiled": partial(vita, dtype="auto", compiled="no"),
    "vita fp32": partial(vita, dtype="float32"),
    "transformers fp32": partial(transformers, dtype="float32"),
    "transformers bf16": partial(transformers, dtype="bfloat16"),
    "transformers fp32 compiled": partial(transformers, dtype="float32", compiled=True),
    "transformers bf16 compiled": partial(transformers, dtype="bfloat16", compiled=True),
    "nanochat bf16 compiled": partial(nanochat, dtype="bfloat16"),
    "plain fp32": partial(plain, dtype="float32"),
    "plain bf16": partial(plain, dtype="bfloat16"),
    "plain bf16 compiled": partial(plain, dtype="bfloat16", compiled=True),
}
