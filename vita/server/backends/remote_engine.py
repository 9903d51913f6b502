"""The parts of a model that a replica needs when another program computes: tokenizer, template and sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.answer_engine import AnswerEngine
from vita.infer.pretrained import PretrainedText
from vita.nn.architecture import Architecture
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFolder


@dataclass(frozen=True)
class ModelShape:
    """The architecture of a model whose weights another program holds."""

    architecture: Architecture


class RemoteEngine(AnswerEngine[ModelShape]):
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

    def with_context(self, context: int | None) -> RemoteEngine:
        """Return the engine of a program with this context length in tokens; None for that of the model."""
        if context is None:
            return self
        architecture = self.model.architecture.model_copy(update={"context": context})
        return RemoteEngine(architecture, self.tokenizer, self.template)
