"""Batches of plain text for training, and held-out text for evaluation during training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vita.data.tokens.loader import document_ids
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.train.choices import Masking
from vita.train.losses import Tensors
from vita.train.parallel.mesh import ProcessMesh
from vita.train.trainer import StepBatch, Trainer


def is_masked(choice: Masking, device: str, *, encoder: bool = False) -> bool:
    """Resolve the choice; `auto` masks on a CPU, because the fastest attention of a GPU supports no mask.

    An encoder always masks with `auto`: its tokens would see the following documents, too.

    On two cores, with rows of 512 tokens and articles of about 600, masked rows were as fast and 0.037 bits per byte
    better after 2.5M tokens (docs/experiments.md).
    """
    return encoder or torch.device(device).type == "cpu" if choice == "auto" else choice


def text_tensors(ids: Int[np.ndarray, "B T"], *, document: int | None = None) -> dict[str, Tensor]:
    """Return rows of a stream as tensors for the loss; a `document` token separates the documents of a row."""
    tensors = {"ids": torch.from_numpy(ids if ids.flags.writeable else ids.copy())}
    if document is not None:
        tensors["documents"] = torch.from_numpy(document_ids(ids, separator=document))
    return tensors


@dataclass(frozen=True)
class HeldOutText:
    """Held-out text, which is never trained on."""

    tensors: Tensors
    targets: int
    bytes: int

    @classmethod
    def read(
        cls, shards: Shards, tokenizer: Tokenizer, *, tokens: int, length: int, mask: bool, world: ProcessMesh
    ) -> Self | None:
        """Read at most `tokens` from the start of the stream; None if there is less than one row per process.

        `mask` restricts attention to the document of a token.
        """
        rows = min(tokens, shards.tokens - 1) // length // world.size * world.size
        if rows < 1:
            return None
        stream = shards.read(0, rows * length + 1).astype(np.int64)
        ids = np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]
        counts = np.bincount(stream[1:])
        text_bytes = sum(
            int(counts[token]) * len(tokenizer.token_bytes(token))
            for token in np.flatnonzero(counts).tolist()
            if token not in tokenizer.special_ids
        )
        local_rows = np.ascontiguousarray(ids[world.rank :: world.size])
        document = shards.document_token if mask else None
        return cls(text_tensors(local_rows, document=document), rows * length, text_bytes)

    def evaluate(self, trainer: Trainer, *, name: str = "heldout") -> dict[str, float]:
        """Evaluate loss per token and bits per byte."""
        loss = trainer.evaluate(iter([StepBatch(self.tensors, targets=self.targets)]))["loss"]
        bits = loss * self.targets / math.log(2) / max(1, self.bytes)
        return {f"{name}_loss": round(loss, 6), f"{name}_bits_per_byte": round(bits, 6)}
