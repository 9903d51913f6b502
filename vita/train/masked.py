"""The masked-language loss, its batches, and its evaluation on held-out text during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vita.data.tokens.loader import StepLoader, document_ids
from vita.data.tokens.masking import MaskedRows, MaskingRule, TokenMasker
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn.transformer import Transformer
from vita.train.losses import Tensors, next_token
from vita.train.masked_settings import MaskingSettings
from vita.train.parallel.mesh import ProcessMesh
from vita.train.text import HeldOutText
from vita.train.trainer import StepBatch, Trainer

# B row, T position, K masked position

EVALUATION_SEED = 0
"""The seed of the masks in evaluations, so that all runs are evaluated on the same masks."""


def masked_language_modelling(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss of masked tokens (Devlin et al. 2019, sec. 3.1); logits only for the positions of `slots`.

    `ids` [B, T] are the masked rows. `slots` [B, K] are positions, `targets` [B, K] their tokens and `learn` [B, K]
    marks those in use. `documents` [B, T] separates the texts of a row.
    """
    hidden = model.hidden(tensors["ids"], documents=tensors.get("documents"), positions=tensors.get("positions"))
    slots = tensors["slots"]
    selected = hidden.gather(1, slots[..., None].expand(-1, -1, hidden.shape[-1]))
    sums = next_token(selected, model.head, tensors["targets"], tensors["learn"])
    return sums.loss, {"accuracy": sums.correct}


def masked_tensors(rows: MaskedRows, documents: Int[np.ndarray, "B T"] | None) -> dict[str, Tensor]:
    """Return masked rows as tensors for the loss."""
    parts = {"ids": rows.ids, "slots": rows.slots, "targets": rows.targets, "learn": rows.learn}
    if documents is not None:
        parts["documents"] = documents
    return {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}


@dataclass(frozen=True)
class MaskedBatches:
    """Batches of masked rows of one or more loaders; each process gets its share of the rows of each."""

    loaders: tuple[StepLoader, ...]
    masker: TokenMasker
    settings: MaskingSettings
    steps: int
    seed: int
    separator: int | None
    """Token that starts a document; None to attend across documents."""
    world: ProcessMesh

    def __call__(self, step: int) -> StepBatch:
        """Return the batch of a step. Every process masks all rows, because the loss is a mean over all masks."""
        rate, first_row, targets = self.settings.mask_rate_at(step, self.steps), 0, 0
        parts: list[dict[str, Tensor]] = []
        for loader in self.loaders:
            ids = loader.batch(step).ids[:, :-1]
            rows = self.masker.mask(ids, seed=self.seed, step=step, first_row=first_row, rate=rate)
            if self.settings.shuffle_targets:
                rows.targets[rows.learn] = np.random.default_rng([step, first_row]).permutation(
                    rows.targets[rows.learn]
                )
            documents = None if self.separator is None else document_ids(ids, separator=self.separator)
            share = len(ids) // self.world.size
            own_rows = slice(self.world.rank * share, (self.world.rank + 1) * share)
            parts.append({name: tensor[own_rows] for name, tensor in masked_tensors(rows, documents).items()})
            first_row, targets = first_row + len(ids), targets + rows.count
        return StepBatch({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, targets=targets)


@dataclass(frozen=True)
class HeldOutMasked:
    """Held-out text with fixed masks, which is never trained on."""

    tensors: Tensors
    targets: int

    @classmethod
    def read(
        cls,
        shards: Shards,
        tokenizer: Tokenizer,
        *,
        tokens: int,
        length: int,
        rate: float,
        separator: int | None,
        world: ProcessMesh,
    ) -> Self | None:
        """Read at most `tokens` from the start of the stream; None if there is less than one row per process."""
        rows = min(tokens, shards.tokens) // length // world.size * world.size
        if rows < 1:
            return None
        ids = shards.read(0, rows * length).astype(np.int64).reshape(rows, length)
        masked = TokenMasker(tokenizer, MaskingRule(rate, "mask")).mask(ids, seed=EVALUATION_SEED, step=0)
        documents = None if separator is None else document_ids(ids, separator=separator)
        tensors = masked_tensors(masked, documents)
        return cls({name: tensor[world.rank :: world.size] for name, tensor in tensors.items()}, masked.count)

    def evaluate(self, trainer: Trainer, *, name: str = "heldout") -> dict[str, float]:
        """Evaluate the loss per masked token in nats, and the share of masked tokens that are the most likely ones."""
        figures = trainer.evaluate(iter([StepBatch(self.tensors, targets=self.targets)]))
        return {f"{name}_loss": round(figures["loss"], 6), f"{name}_accuracy": round(figures["accuracy"], 6)}


class TextEvaluation(Protocol):
    """Held-out text that is evaluated during training."""

    def evaluate(self, trainer: Trainer, *, name: str = "heldout") -> dict[str, float]:
        """Return the figures of the text, whose names begin with `name`."""
        ...


class HeldOutSettings(Protocol):
    """The settings of the evaluation of held-out text."""

    @property
    def eval_tokens(self) -> int: ...
    @property
    def eval_mask_rate(self) -> float: ...


def read_heldout(
    settings: HeldOutSettings,
    shards: Shards,
    tokenizer: Tokenizer,
    *,
    encoder: bool,
    length: int,
    masked: bool,
    world: ProcessMesh,
) -> TextEvaluation | None:
    """Read the held-out text for the objective of the model; `masked` restricts attention to documents."""
    tokens = settings.eval_tokens
    if not encoder:
        return HeldOutText.read(shards, tokenizer, tokens=tokens, length=length, mask=masked, world=world)
    rate, separator = settings.eval_mask_rate, shards.document_token if masked else None
    return HeldOutMasked.read(
        shards, tokenizer, tokens=tokens, length=length, rate=rate, separator=separator, world=world
    )
