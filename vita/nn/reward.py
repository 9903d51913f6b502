"""A reward model: the trunk of a language model with a scalar head, read at the last token of a text.

It is saved as a sequence classifier of its family, for which transformers computes the same scores. Padding is on the
right and ignored: the caller passes the index of the last token.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vita.nn import hf
from vita.nn.adapters.attach import adapter_of
from vita.nn.adapters.config import CLASSIFIER as SEQUENCE_CLASSIFICATION
from vita.nn.architecture import Architecture
from vita.nn.families import family_of, read_architecture
from vita.nn.init import generator
from vita.nn.transformer import Linear, Transformer
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFiles, ModelFolder

# B batch, T position

Start = Literal["small", "zero"]


class RewardTransformer(Transformer):
    """A decoder whose only head is `score`."""

    def __init__(self, architecture: Architecture, *, attention: str = "sdpa") -> None:
        # "tied" removes the separate output head, so that only the trunk is left.
        super().__init__(architecture.model_copy(update={"tied": True}), attention=attention)
        self.score = Linear(architecture.width, 1)

    @classmethod
    def of(cls, model: Transformer, *, start: Start = "small", seed: int = 0) -> RewardTransformer:
        """Create a reward model with the trunk of `model`.

        The new head is N(0, 1/(width + 1)) (Stiennon et al. 2020) or zero. The trunk of a model with an adapter is used
        without a copy, and the adapter then includes the new head.
        """
        if adapter_of(model) is not None:
            return cls.sharing(model, start=start, seed=seed)
        reward_model = cls(model.architecture)
        reward_model.model.load_state_dict(model.model.state_dict())
        if start == "small":
            reward_model.start_head(seed)
        return reward_model

    @classmethod
    def sharing(cls, model: Transformer, *, start: Start = "zero", seed: int = 0) -> RewardTransformer:
        """Create a reward model that uses the trunk of `model` without a copy, with its adapter."""
        with torch.device("meta"):
            reward_model = cls(model.architecture)
        reward_model.model = model.model
        weight = model.head_weight
        reward_model.score.weight = nn.Parameter(torch.zeros(1, model.architecture.width, device=weight.device))
        if start == "small":
            reward_model.start_head(seed)
        if adapter := adapter_of(model):
            saved = [name for name in adapter.config.modules_to_save if name not in ("lm_head", "score")]
            config = replace(adapter.config, task_type=SEQUENCE_CLASSIFICATION, modules_to_save=(*saved, "score"))
            object.__setattr__(reward_model, "adapter", replace(adapter, config=config))
        return reward_model

    @torch.no_grad()
    def start_head(self, seed: int) -> None:
        """Initialize the head with N(0, 1/(width + 1)) (Stiennon et al. 2020)."""
        deviation = 1 / math.sqrt(self.architecture.width + 1)
        weight = torch.empty(self.score.weight.shape).normal_(0.0, deviation, generator=generator(seed, "score.weight"))
        self.score.weight.copy_(weight)

    def scores(self, ids: Int[Tensor, "B T"], last: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return the score of each text, whose last token is at `last`; in float32, so that close scores do not tie."""
        hidden = self.hidden(ids)[torch.arange(len(ids), device=ids.device), last]
        return nn.functional.linear(hidden.float(), self.score.weight.float())[:, 0]


def save(model: RewardTransformer, folder: str | Path, *, padding: int, source: ModelFolder | None = None) -> None:
    """Save for `AutoModelForSequenceClassification` of transformers; `padding` is the padding token.

    With `source`, the language model of the trunk, weights keep its dtypes and `config.json` keeps its other fields.
    """
    classifier_config: dict[str, Any] = {
        "architectures": [family_of(model.architecture).classifier_class],
        "num_labels": 1,
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "pad_token_id": padding,
    }
    if source is None:
        hf.save(model, folder, config=classifier_config)
    else:
        source = ModelFiles.of(source)
        hf.save_like(model, folder, source=source, config={**hf.read_config(source), **classifier_config})


def is_classifier(folder: ModelFolder) -> bool:
    """Return whether a folder holds a sequence classifier."""
    files = ModelFiles.of(folder)
    config = hf.read_config(files)
    architecture = read_architecture(config, where=str(files.path(hf.CONFIG)))
    return config.get("architectures") == [family_of(architecture).classifier_class]


def load(
    folder: ModelFolder, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> RewardTransformer:
    """Load the reward model of a folder."""
    files = ModelFiles.of(folder)
    config = hf.read_config(files)
    where = str(files.path(hf.CONFIG))
    architecture = read_architecture(config, where=where)
    classifier = family_of(architecture).classifier_class
    if config.get("architectures") != [classifier]:
        hint = "train a reward model with `vita reward`"
        raise ModelError(f"{where}: architectures", expected=classifier, got=config.get("architectures"), hint=hint)
    labels = len(config.get("id2label") or {}) or config.get("num_labels", 1)
    if labels != 1:
        raise ModelError(f"{where}: num_labels", expected="1, a score", got=labels)
    with torch.device("meta"):
        model = RewardTransformer(architecture)
    return hf.load_weights(model, files, dtype=dtype, device=device)
