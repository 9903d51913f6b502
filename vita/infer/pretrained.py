"""A pretrained model as stages and engines open it: weights, tokenizer and chat template, read from the folder once.

    pretrained = Pretrained.load(folder)                   # for training: also refuses NaN weights
    pretrained.model, pretrained.tokenizer, pretrained.require_template()
    hf.save_successor(trained, next_folder, source=pretrained.files)     # what does not change is not read again

Everything that needs a model loads it here, so a folder that one part of Vita refuses is refused by all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from vita.data.tokens.chat_template import FILE, ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn import hf
from vita.nn.adapters.attach import BaseQuantization, dequantize_linears, shared_copy
from vita.nn.adapters.files import load_adapter
from vita.nn.architecture import Architecture
from vita.nn.families import read_architecture
from vita.nn.transformer import Transformer
from vita.spine.model_files import ModelFiles, ModelFolder, description

if TYPE_CHECKING:
    from vita.nn.classifier import ClassifierSpec, SequenceClassifier
    from vita.nn.reward import RewardTransformer

M = TypeVar("M", bound=Transformer)
C = TypeVar("C", bound="SequenceClassifier")


def architecture_of(folder: ModelFolder) -> Architecture:
    """Return the architecture of a model folder."""
    files = ModelFiles.of(folder)
    return read_architecture(hf.read_config(files), where=str(files.path(hf.CONFIG)))


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
        return cls(files, architecture_of(files), tokenizer, load_template(files, tokenizer))

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
        quantized: bool = False,
    ) -> Pretrained[Transformer]:
        """Read a language model; a `ModelError` where its parts do not fit, or (with `finite`) a weight is NaN.

        The folder of an adapter gives its base model with the adapter. A base that was quantized for training has the
        same values here; with `quantized` it also has the same storage, which is smaller and slower.
        """
        files = ModelFiles.of(folder)
        tokenizer = Tokenizer.load(files)
        model = hf.load(files.weights, dtype=dtype, device=device)
        if files.is_adapter:
            _add_adapter(model, files, dtype=dtype, quantized=quantized)
        return _checked(files, model, tokenizer, finite=finite)

    @classmethod
    def load_structure(cls, folder: ModelFolder) -> Pretrained[Transformer]:
        """Read a language model without its weights: it is on the meta device, and a trainer reads them later."""
        files = ModelFiles.of(folder)
        return _checked(files, hf.load_structure(files.weights), Tokenizer.load(files), finite=False)

    @classmethod
    def load_reward(cls, folder: ModelFolder, *, device: str | torch.device = "cpu") -> Pretrained[RewardTransformer]:
        """Read a reward model, with the same checks."""
        from vita.nn import reward

        files = ModelFiles.of(folder)
        if not files.is_adapter:
            return _checked(files, reward.load(files, device=device), Tokenizer.load(files), finite=True)
        model = _classifier_base(reward.RewardTransformer, files.weights, reward.REWARD, device=device)
        _add_adapter(model, files, dtype=torch.float32, quantized=False)
        return _checked(files, model, Tokenizer.load(files), finite=True)

    @classmethod
    def load_classifier(
        cls, folder: ModelFolder, *, device: str | torch.device = "cpu", finite: bool = True
    ) -> Pretrained[SequenceClassifier]:
        """Read a sequence classifier, with the same checks."""
        from vita.nn import classifier

        files = ModelFiles.of(folder)
        if not files.is_adapter:
            return _checked(files, classifier.load(files, device=device), Tokenizer.load(files), finite=finite)
        spec = classifier.read_spec(files)
        model = _classifier_base(classifier.SequenceClassifier, files.weights, spec, device=device)
        _add_adapter(model, files, dtype=torch.float32, quantized=False)
        return _checked(files, model, Tokenizer.load(files), finite=finite)

    def require_template(self) -> ChatTemplate:
        """Return the chat template; a `ModelError` where the folder has none."""
        return self.template or ChatTemplate.load(self.files)

    def copy(self) -> Pretrained[M]:
        """Return the same model with weights that training does not change; frozen weights are shared."""
        return Pretrained(self.files, shared_copy(self.model), self.tokenizer, self.template)


def _add_adapter(model: Transformer, files: ModelFiles, *, dtype: torch.dtype, quantized: bool) -> None:
    """Attach the adapter in a folder to its base model."""
    quantization = BaseQuantization.from_json(description(files.folder).get("quantization"))
    load_adapter(model, files, quantization=quantization)
    if not quantized:
        dequantize_linears(model, dtype=dtype)


def _classifier_base(kind: type[C], files: ModelFiles, spec: ClassifierSpec, *, device: str | torch.device) -> C:
    """Return the base of a classifier adapter: a classifier, or a language model whose head the adapter replaces."""
    from vita.nn import classifier

    if classifier.is_classifier(files):
        return classifier.load_as(kind, files, device=device)
    model = hf.load(files, device=device)
    return kind.sharing(model, outputs=len(spec.labels), pooling=spec.pooling)


def _checked(files: ModelFiles, model: M, tokenizer: Tokenizer, *, finite: bool) -> Pretrained[M]:
    hf.check_tokens(files, model.architecture, tokenizer.vocabulary)
    if finite:
        hf.check_finite(model, files)
    return Pretrained(files, model, tokenizer, load_template(files, tokenizer))


def load_template(files: ModelFiles, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Return the chat template of a folder, None where it holds none."""
    holds_template = files.exists(FILE) or bool(tokenizer.settings.get("chat_template"))
    return ChatTemplate.load(files) if holds_template else None
