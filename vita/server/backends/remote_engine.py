"""The parts of a model that a replica needs when another program computes: tokenizer, template and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.answer_formats.answer_format import AnswerFormat
from vita.infer.completion import CompletionBuilder
from vita.infer.pretrained import PretrainedText
from vita.infer.sampling import Sampling
from vita.nn.architecture import Architecture
from vita.spine.errors import DataError, ModelError
from vita.spine.model_files import ModelFolder


@dataclass(frozen=True)
class ModelShape:
    """The architecture of a model whose weights another program holds."""

    architecture: Architecture


class RemoteEngine:
    """Has the interface of `vita.infer.engine.Engine` for the encoding of prompts and the text of answers."""

    def __init__(self, architecture: Architecture, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.model, self.tokenizer, self.template = ModelShape(architecture), tokenizer, template

    @classmethod
    def open(cls, folder: ModelFolder, *, clock: Callable[[], datetime]) -> RemoteEngine:
        """Read a Hugging Face model folder without its weights."""
        text = PretrainedText.load(folder)
        if not text.architecture.causal:
            raise ModelError("backend", "the model is an encoder, which only the backend `vita` serves")
        template = text.template and text.template.with_clock(clock)
        return cls(text.architecture, text.tokenizer, template)

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """Return the format of the model's answers, by its chat template."""
        return AnswerFormat.of(self.template) if self.template else AnswerFormat()

    @cached_property
    def visible_ids(self) -> frozenset[int]:
        """Return the special tokens that belong to the text of an answer in this format."""
        return self.answer_format.visible_ids(self.tokenizer)

    def new_completion(
        self, prompt: Sequence[int], sampling: Sampling, *, visible: frozenset[int] = frozenset()
    ) -> CompletionBuilder:
        """Return an empty completion of a prompt that leaves room in the context."""
        context = self.model.architecture.context
        if not prompt or len(prompt) >= context:
            raise DataError("prompt", expected=f"from 1 to {context - 1} tokens", got=len(prompt))
        limit = min(sampling.max_tokens, context - len(prompt))
        return CompletionBuilder(prompt, sampling, self.tokenizer, limit=limit, visible=visible)
