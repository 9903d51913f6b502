"""Training of a sequence classifier: batches of labelled texts, and the loss of each kind of label.

Cross-entropy for one class of several, binary cross-entropy for several classes, and the squared error for a number,
as in transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.data.tokens.label_scheme import LabelScheme
from vita.data.tokens.labelled_examples import LabelledExample
from vita.data.tokens.permutation import step_items
from vita.data.tokens.text_encoding import EncodedText
from vita.nn.classifier import SequenceClassifier
from vita.nn.transformer import Transformer
from vita.train.losses import Tensors
from vita.train.parallel.mesh import ProcessMesh
from vita.train.trainer import StepBatch, Trainer

# B batch, L label

WIDTHS = 16
"""Rows are as wide as a multiple of this, so that few different shapes occur."""
EVAL_BATCH = 64
"""Texts per evaluation batch."""


def text_logits(model: Transformer, tensors: Tensors) -> Float[Tensor, "B L"]:
    """Return the logits of a classifier for each row."""
    assert isinstance(model, SequenceClassifier)
    return model.logits(tensors["ids"], tensors["lengths"], types=tensors.get("types"))


@dataclass(frozen=True)
class ClassificationLoss:
    """The loss of a classifier, and the share of correct rows."""

    problem: str

    def __call__(self, model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        logits, targets = text_logits(model, tensors), tensors["targets"]
        if self.problem == "regression":
            return F.mse_loss(logits[:, 0], targets, reduction="sum"), {}
        if self.problem == "multi":
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1).sum()
            correct = ((logits > 0) == (targets > 0.5)).all(-1)
        else:
            loss = F.cross_entropy(logits, targets, reduction="sum")
            correct = logits.argmax(-1) == targets
        return loss, {"accuracy": correct.float().sum()}


def text_tensors(texts: Sequence[EncodedText], *, pad: int, context: int, with_types: bool) -> dict[str, Tensor]:
    """Return ids and lengths of texts, padded on the right; with the token types of models that read them."""
    longest = max(len(text.ids) for text in texts)
    width = min(-(-longest // WIDTHS) * WIDTHS, max(context, longest))
    ids = torch.full((len(texts), width), pad, dtype=torch.int64)
    types = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        types[row, : len(text.ids)] = torch.tensor(text.types)
    tensors = {"ids": ids, "lengths": torch.tensor([len(text.ids) for text in texts])}
    return {**tensors, "types": types} if with_types else tensors


class LabelledBatches:
    """The batch of each step, as a pure function of the step."""

    def __init__(
        self,
        examples: Sequence[LabelledExample],
        scheme: LabelScheme,
        *,
        size: int,
        seed: int,
        pad: int,
        context: int,
        with_types: bool = False,
        world: ProcessMesh | None = None,
    ) -> None:
        self.examples, self.scheme, self.size, self.seed = list(examples), scheme, size, seed
        self.pad, self.context, self.with_types = pad, context, with_types
        self.world = world or ProcessMesh()

    def __call__(self, step: int) -> StepBatch:
        return self.batch_of(step_items(step, rows=self.size, size=len(self.examples), seed=self.seed))

    def batch_of(self, numbers: Sequence[int]) -> StepBatch:
        """Return the share of these examples that this process computes."""
        return StepBatch(self.tensors(numbers[self.world.rank :: self.world.size]), targets=len(numbers))

    def tensors(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the tensors of examples by their numbers."""
        examples = [self.examples[number] for number in numbers]
        texts = [example.encoded for example in examples]
        tensors = text_tensors(texts, pad=self.pad, context=self.context, with_types=self.with_types)
        return {**tensors, "targets": self._targets(examples)}

    def _targets(self, examples: Sequence[LabelledExample]) -> Tensor:
        targets = [example.target for example in examples]
        if self.scheme.problem == "multi":
            values = torch.zeros(len(targets), len(self.scheme.names))
            for row, numbers in enumerate(targets):
                assert isinstance(numbers, tuple)
                values[row, list(numbers)] = 1.0
            return values
        return torch.tensor(targets, dtype=torch.float32 if self.scheme.problem == "regression" else torch.int64)

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Evaluate `heldout_loss` and the other metrics, on a multiple of the number of processes."""
        count, size = len(self.examples) // self.world.size * self.world.size, EVAL_BATCH * self.world.size

        def batches() -> Iterator[StepBatch]:
            return (self.batch_of(range(start, min(start + size, count))) for start in range(0, count, size))

        return {f"heldout_{name}": round(value, 6) for name, value in trainer.evaluate(batches()).items()}

    def logits(self, trainer: Trainer) -> Float[Tensor, "N L"]:
        """Return the logits of all examples under the current weights."""
        parts = [
            trainer.map_rows(self.tensors(range(start, min(start + EVAL_BATCH, len(self.examples)))), text_logits)
            for start in range(0, len(self.examples), EVAL_BATCH)
        ]
        return torch.cat(parts).cpu() if parts else torch.zeros(0, len(self.scheme.names))

    def mean_tokens(self) -> float:
        """Return the mean number of tokens of an example."""
        return sum(len(example.encoded.ids) for example in self.examples) / max(1, len(self.examples))
