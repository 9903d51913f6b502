"""Rows of plain text to learn from, and held-out text that is read again and again."""

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
from vita.train.parallel import DataParallelGroup
from vita.train.trainer import StepBatch, Trainer


def is_masked(choice: Masking, device: str) -> bool:
    """The choice; `auto` masks on a CPU, as a GPU's fastest attention takes no mask.

    On two cores, rows of 512 tokens with articles of about 600, masked rows were as fast and 0.037 bits per byte better
    after 2.5M tokens (docs/experiments.md).
    """
    return torch.device(device).type == "cpu" if choice == "auto" else choice


def text_tensors(ids: Int[np.ndarray, "B T"], *, document: int | None = None) -> dict[str, Tensor]:
    """Rows of a stream as the loss reads them; a `document` token keeps the documents of a row apart."""
    tensors = {"ids": torch.from_numpy(ids if ids.flags.writeable else ids.copy())}
    if document is not None:
        tensors["documents"] = torch.from_numpy(document_ids(ids, separator=document))
    return tensors


@dataclass(frozen=True)
class HeldOutText:
    """Text that is never trained on."""

    tensors: Tensors
    targets: int
    bytes: int

    @classmethod
    def read(
        cls, shards: Shards, tokenizer: Tokenizer, *, tokens: int, length: int, mask: bool, world: DataParallelGroup
    ) -> Self | None:
        """The beginning of the stream, `tokens` at most; None where there is too little for each process to have a row.

        `mask` lets a token see only its own document.
        """
        rows = min(tokens, shards.tokens - 1) // length // world.size * world.size
        if rows < 1:
            return None
        stream = shards.read(0, rows * length + 1).astype(np.int64)
        ids = np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]
        sizes = [0 if one in tokenizer.special_ids else len(tokenizer.token_bytes(one)) for one in stream[1:].tolist()]
        mine = np.ascontiguousarray(ids[world.rank :: world.size])
        document = shards.document_token if mask else None
        return cls(text_tensors(mine, document=document), rows * length, sum(sizes))

    def look(self, trainer: Trainer, *, name: str = "heldout") -> dict[str, float]:
        """Loss per token, and bits per byte."""
        loss = trainer.evaluate(iter([StepBatch(self.tensors, targets=self.targets)]))["loss"]
        bits = loss * self.targets / math.log(2) / max(1, self.bytes)
        return {f"{name}_loss": round(loss, 6), f"{name}_bits_per_byte": round(bits, 6)}
