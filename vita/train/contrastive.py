"""Contrastive training of embeddings: each anchor finds its positive text among all texts of the batch.

The loss is InfoNCE (van den Oord et al. 2018), also called multiple negatives ranking (Henderson et al. 2017): the
cross-entropy of the cosine similarities, divided by the temperature, with the other positives and all hard negatives of
the batch as negatives. Texts equal to the positive of an anchor are no negatives. With matryoshka dimensions the loss
is the mean over prefixes of the embedding (Kusupati et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.data.tokens.pair_examples import PairExample
from vita.data.tokens.permutation import step_items
from vita.data.tokens.text_encoding import EncodedText
from vita.nn.pooling import Pooling, pooled, text_states
from vita.nn.transformer import Transformer
from vita.train.classification import EVAL_BATCH, WIDTHS, text_tensors
from vita.train.losses import Tensors
from vita.train.trainer import StepBatch, Trainer

# B pair, K text of a pair (anchor, positive, negatives), D width, C candidate


@dataclass(frozen=True)
class ContrastiveLoss:
    """InfoNCE over the pairs of a batch, which must be computed in one piece."""

    pooling: Pooling
    temperature: float
    dimensions: tuple[int, ...] = ()
    symmetric: bool = False

    def __call__(self, model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        vectors = self._vectors(model, tensors)
        sizes = (vectors.shape[-1], *self.dimensions)
        losses, correct = zip(*(self._ranking(vectors[..., :size], tensors) for size in sizes), strict=True)
        return torch.stack(losses).mean(), {"accuracy": correct[0]}

    def _vectors(self, model: Transformer, tensors: Tensors) -> Float[Tensor, "B K D"]:
        ids, lengths = tensors["ids"].flatten(0, 1), tensors["lengths"].flatten()
        groups = _groups_of_length(lengths.tolist())
        vectors = []
        for rows in groups:
            group_lengths = lengths[rows]
            width = min(-(-int(group_lengths.max()) // WIDTHS) * WIDTHS, ids.shape[1])
            states = text_states(model, ids[rows, :width], group_lengths)
            vectors.append(pooled(states, group_lengths, self.pooling).float())
        order = torch.tensor([row for rows in groups for row in rows], device=ids.device)
        return torch.cat(vectors)[order.argsort()].unflatten(0, tensors["lengths"].shape)

    def _ranking(self, vectors: Float[Tensor, "B K D"], tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the number of anchors whose positive is the most similar text."""
        vectors = F.normalize(vectors, dim=-1)
        anchors = vectors[:, 0]
        # Candidates: all positives, then all first negatives, and so on.
        candidates = vectors[:, 1:].transpose(0, 1).flatten(0, 1)
        scores = anchors @ candidates.T / self.temperature
        keys = tensors["keys"][:, 1:].T.flatten()
        targets = torch.arange(len(anchors), device=scores.device)
        excluded = (keys[None] == tensors["keys"][:, 1][:, None]) | ~tensors["present"][:, 1:].T.flatten()[None]
        excluded = excluded & (torch.arange(len(keys), device=scores.device)[None] != targets[:, None])
        scores = scores.masked_fill(excluded, float("-inf"))
        loss = F.cross_entropy(scores, targets, reduction="sum")
        if self.symmetric:
            same_anchor = tensors["keys"][:, 0][None] == tensors["keys"][:, 0][:, None]
            others = ~torch.eye(len(anchors), dtype=torch.bool, device=scores.device)
            backward = (candidates[: len(anchors)] @ anchors.T / self.temperature).masked_fill(
                same_anchor & others, float("-inf")
            )
            loss = (loss + F.cross_entropy(backward, targets, reduction="sum")) / 2
        return loss, (scores.argmax(-1) == targets).float().sum()


def _groups_of_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows of texts of similar length, the shortest first: up to 64 tokens, 128, 256, and so on.

    A query is much shorter than its document. In one tensor it would be padded to the longest document of the batch.
    """
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(max(6, (length - 1).bit_length()), []).append(row)
    return [groups[size] for size in sorted(groups)]


def text_key(text: str) -> int:
    """Return a number that is equal for equal texts."""
    return xxhash.xxh3_64_intdigest(text.encode()) >> 1


class ContrastiveBatches:
    """The batch of each step, as a pure function of the step."""

    def __init__(
        self, examples: Sequence[PairExample], *, size: int, seed: int, pad: int, context: int, negatives: int
    ) -> None:
        """`negatives` is the number of hard negatives of each pair; a pair with fewer gets empty ones."""
        self.examples, self.size, self.seed = list(examples), size, seed
        self.pad, self.context, self.negatives = pad, context, negatives

    def __call__(self, step: int) -> StepBatch:
        return self.batch_of(step_items(step, rows=self.size, size=len(self.examples), seed=self.seed))

    def batch_of(self, numbers: Sequence[int]) -> StepBatch:
        """Return the batch of these examples."""
        examples = [self.examples[number] for number in numbers]
        empty = EncodedText([self.pad], [0])
        texts, keys, present = [], [], []
        for example in examples:
            missing = self.negatives - len(example.negatives)
            texts += [example.anchor, example.positive, *example.negatives, *[empty] * missing]
            strings = (example.pair.anchor, example.pair.positive, *example.pair.negatives[: len(example.negatives)])
            keys.append([*map(text_key, strings), *[0] * missing])
            present.append([True] * len(strings) + [False] * missing)
        tensors = text_tensors(texts, pad=self.pad, context=self.context, with_types=False)
        shape = (len(examples), 2 + self.negatives)
        tensors = {name: tensor.unflatten(0, shape) for name, tensor in tensors.items()}
        tensors |= {"keys": torch.tensor(keys), "present": torch.tensor(present)}
        return StepBatch(tensors, targets=len(examples))

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Evaluate `heldout_loss` and `heldout_accuracy` in batches of the size of training."""

        def batches() -> Iterator[StepBatch]:
            count = len(self.examples)
            return (self.batch_of(range(start, min(start + self.size, count))) for start in range(0, count, self.size))

        return {f"heldout_{name}": round(value, 6) for name, value in trainer.evaluate(batches()).items()}

    def mean_tokens(self) -> float:
        """Return the mean number of tokens of a pair with its negatives."""
        lengths = [
            sum(len(text.ids) for text in (example.anchor, example.positive, *example.negatives))
            for example in self.examples
        ]
        return sum(lengths) / max(1, len(lengths))


def embed_texts(
    trainer: Trainer, texts: Sequence[EncodedText], *, pooling: Pooling, pad: int, context: int
) -> Float[Tensor, "N D"]:
    """Return the normalized embeddings of texts under the current weights."""

    def embed(model: Transformer, tensors: Tensors) -> Tensor:
        states = text_states(model, tensors["ids"], tensors["lengths"])
        return F.normalize(pooled(states, tensors["lengths"], pooling).float(), dim=-1)

    # Texts of similar length are computed together, because a batch is padded to its longest text.
    order = sorted(range(len(texts)), key=lambda number: len(texts[number].ids))
    parts = [
        trainer.map_rows(
            text_tensors(
                [texts[number] for number in order[start : start + EVAL_BATCH]],
                pad=pad,
                context=context,
                with_types=False,
            ),
            embed,
        )
        for start in range(0, len(texts), EVAL_BATCH)
    ]
    if not parts:
        return torch.zeros(0, trainer.model.architecture.width)
    return torch.cat(parts).cpu()[torch.tensor(order).argsort()]
