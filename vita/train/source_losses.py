"""The held-out loss of each source of the text, during training.

by_source = SourceLosses.read(heldout, shards, length=512, world=world)
figures |= by_source.evaluate(trainer)          # {"source_loss/wiki": 3.21, "source_loss/books": 3.74}
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vita.data.tokens.shards import Shards
from vita.nn.transformer import Transformer
from vita.nn.wide_floats import widened
from vita.train.losses import Tensors
from vita.train.parallel.mesh import ProcessMesh
from vita.train.policy_losses import token_logprobs
from vita.train.text import HeldOutText
from vita.train.trainer import Trainer

MOST_SOURCES = 8
"""Maximum number of sources with a loss of their own: those with the most held-out tokens."""
OTHER = "other sources"


@dataclass(frozen=True)
class SourceLosses:
    """Held-out text with the source of each token."""

    tensors: Tensors
    """The tensors of the held-out text, and `sources` [rows, length + 1] with the index of the source of each token."""
    targets: dict[str, int]
    """Source -> number of targets over all processes."""

    @classmethod
    def read(cls, heldout: HeldOutText, shards: Shards, *, length: int, world: ProcessMesh) -> Self | None:
        """Find the sources of the held-out text; None if there is only one, or if processes divide a row or a layer."""
        if world.processes != world.size:
            return None
        rows = heldout.targets // length
        spans = shards.documents_between(0, rows * length + 1)
        tokens = Counter[str]()
        for span in spans:
            tokens[span.source] += span.stop - span.start
        if len(tokens) < 2:
            return None
        names = [name for name, _ in tokens.most_common(MOST_SOURCES)]
        if len(tokens) > MOST_SOURCES:
            names.append(OTHER)
        stream = np.zeros(rows * length + 1, dtype=np.int64)
        for span in spans:
            stream[span.start : span.stop] = names.index(span.source if span.source in names else OTHER)
        windows = np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]
        counts = np.bincount(stream[1:], minlength=len(names)).tolist()
        local_rows = np.ascontiguousarray(windows[world.rank :: world.size])
        tensors = {**heldout.tensors, "sources": torch.from_numpy(local_rows)}
        return cls(tensors, dict(zip(names, counts, strict=True)))

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Return the mean loss per token of each source, in nats."""
        count = len(self.targets)
        sums = trainer.map_rows(self.tensors, lambda model, tensors: _sums_by_source(model, tensors, count)).sum(0)
        totals = trainer.world.total(widened(sums)).tolist()
        return {
            f"source_loss/{name}": round(total / targets, 6)
            for (name, targets), total in zip(self.targets.items(), totals, strict=True)
            if targets
        }


def _sums_by_source(model: Transformer, tensors: Tensors, count: int) -> Float[Tensor, "B S"]:
    """Return the sum of the losses of each source in each row."""
    ids, documents = tensors["ids"], tensors.get("documents")
    hidden = model.hidden(ids[:, :-1], documents=None if documents is None else documents[:, :-1])
    losses = -token_logprobs(hidden.flatten(0, 1), model.head, ids[:, 1:].flatten()).logprobs.float()
    sums = torch.zeros(len(ids), count, device=losses.device)
    return sums.scatter_add_(1, tensors["sources"][:, 1:], losses.view(len(ids), -1))
