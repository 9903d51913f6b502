"""A pretrained model as stages and engines open it: weights, tokenizer and chat template, read from the folder once.

    pretrained = Pretrained.load(folder)                   # for training: also refuses NaN weights
    pretrained.model, pretrained.tokenizer, pretrained.require_template()
    hf.save_successor(trained, next_folder, source=pretrained.files)     # what does not change is not read again

Everything that needs a model loads it here, so a folder that one part of Vita refuses is refused by all.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from vita.data.tokens.chat_template import FILE, ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn import hf
from vita.nn.architecture import Architecture
from vita.nn.families import read_architecture
from vita.nn.transformer import Transformer
from vita.spine.model_files import ModelFiles, ModelFolder

if TYPE_CHECKING:
    from vita.nn.reward import RewardTransformer

M = TypeVar("M", bound=Transformer)


@dataclass(frozen=True)
class PretrainedText:
    """Tokenizer, chat template and architecture of a model folder: all that prompts need, without the weights."""

    files: ModelFiles
    architecture: Architecture
    tokenizer: Tokenizer
    template: ChatTemplate | None
    """None where the folder holds no chat template."""

    @classmethod
    def load(cls, folder: ModelFolder) -> PretrainedText:
        """Read everything but the weights."""
        files = ModelFiles.of(folder)
        tokenizer = Tokenizer.load(files)
        architecture = read_architecture(hf.read_config(files), where=str(files.path(hf.CONFIG)))
        return cls(files, architecture, tokenizer, load_template(files, tokenizer))

    def require_template(self) -> ChatTemplate:
        """Return the chat template; a `ModelError` where the folder has none."""
        return self.template or ChatTemplate.load(self.files)


@dataclass(frozen=True)
class Pretrained(Generic[M]):
    """The parts of a model folder."""

    files: ModelFiles
    model: M
    tokenizer: Tokenizer
    template: ChatTemplate | None
    """None where the folder holds no chat template."""

    @classmethod
    def load(
        cls,
        folder: ModelFolder,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        finite: bool = True,
    ) -> Pretrained[Transformer]:
        """Read a language model; a `ModelError` where its parts do not fit, or (with `finite`) a weight is NaN."""
        files = ModelFiles.of(folder)
        tokenizer = Tokenizer.load(files)
        return _checked(files, hf.load(files, dtype=dtype, device=device), tokenizer, finite=finite)

    @classmethod
    def load_reward(cls, folder: ModelFolder, *, device: str | torch.device = "cpu") -> Pretrained[RewardTransformer]:
        """Read a reward model, with the same checks."""
        from vita.nn import reward

        files = ModelFiles.of(folder)
        model = reward.load(files, device=device)
        return _checked(files, model, Tokenizer.load(files), finite=True)

    def require_template(self) -> ChatTemplate:
        """Return the chat template; a `ModelError` where the folder has none."""
        return self.template or ChatTemplate.load(self.files)

    def copy(self) -> Pretrained[M]:
        """Return the same model with weights of its own, which training does not change."""
        return Pretrained(self.files, copy.deepcopy(self.model), self.tokenizer, self.template)


def _checked(files: ModelFiles, model: M, tokenizer: Tokenizer, *, finite: bool) -> Pretrained[M]:
    hf.check_tokens(files, model.architecture, tokenizer.vocabulary)
    if finite:
        hf.check_finite(model, files)
    return Pretrained(files, model, tokenizer, load_template(files, tokenizer))


def load_template(files: ModelFiles, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Return the chat template of a folder, None where it holds none."""
    holds_template = files.exists(FILE) or bool(tokenizer.settings.get("chat_template"))
    return ChatTemplate.load(files) if holds_template else None
