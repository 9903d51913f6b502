"""A reward model: a sequence classifier with one output, the score of a dialogue at its last token."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vita.nn import classifier, hf
from vita.nn.classifier import ClassifierSpec, SequenceClassifier, check_classifier, read_spec
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFiles, ModelFolder

# B batch, T position

REWARD = ClassifierSpec(("reward",), problem=None)
"""The single output of a reward model."""


class RewardTransformer(SequenceClassifier):
    """A decoder whose only head is `score`, with one output."""

    def scores(self, ids: Int[Tensor, "B T"], last: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return the score of each text, whose last token is at `last`; in float32, so that close scores do not tie."""
        return self.logits(ids, last + 1)[:, 0]


def save(model: RewardTransformer, folder: str | Path, *, padding: int, source: ModelFolder | None = None) -> None:
    """Save for `AutoModelForSequenceClassification` of transformers; `padding` is the padding token.

    With `source`, the language model of the trunk, weights keep its dtypes and `config.json` keeps its other fields.
    """
    classifier.save(model, folder, REWARD, padding=padding, source=source)


def load(
    folder: ModelFolder, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> RewardTransformer:
    """Load the reward model of a folder."""
    files = ModelFiles.of(folder)
    check_classifier(files, hint="train a reward model with `vita reward`")
    labels = len(read_spec(files).labels)
    if labels != 1:
        raise ModelError(f"{files.path(hf.CONFIG)}: num_labels", expected="1, a score", got=labels)
    return classifier.load_as(RewardTransformer, files, dtype=dtype, device=device)
