"""The part of an engine that needs no weights: the format of a model's answers, and the start of a completion.

`vita.infer.engine` computes answers in this process. `vita.server.backends.remote_engine` belongs to another program.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.answer_formats.answer_format import AnswerFormat
from vita.infer.completion import CompletionBuilder
from vita.infer.grammars import GrammarCompiler
from vita.infer.request import GenerationRequest
from vita.infer.sampling import Sampling
from vita.nn.architecture import Architecture
from vita.spine.errors import DataError


class HasArchitecture(Protocol):
    """A model, or the description of a model whose weights another program holds."""

    @property
    def architecture(self) -> Architecture: ...


M = TypeVar("M", bound=HasArchitecture)


class AnswerEngine(Generic[M]):
    """A model with its tokenizer and its chat template."""

    model: M
    tokenizer: Tokenizer
    template: ChatTemplate | None

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """Return the format of the model's answers, by its chat template."""
        return AnswerFormat.of(self.template) if self.template else AnswerFormat()

    @cached_property
    def visible_ids(self) -> frozenset[int]:
        """Return the special tokens that belong to the text of an answer in this format."""
        return self.answer_format.visible_ids(self.tokenizer)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Return the compiler of grammars for the tokens of the model."""
        return GrammarCompiler(self.tokenizer)

    def new_completion(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        where: str,
        *,
        room: int = 1,
        visible: frozenset[int] = frozenset(),
    ) -> CompletionBuilder:
        """Return an empty completion; the prompt is checked to leave room for `room` tokens in the context."""
        self.check_prompt(prompt, where, room=room)
        remaining = self.model.architecture.context - len(prompt)
        limit = min(sampling.max_tokens, remaining)
        return CompletionBuilder(prompt, sampling, self.tokenizer, limit=limit, visible=visible)

    def new_completions(self, request: GenerationRequest) -> list[CompletionBuilder]:
        """Return the empty completions of a request; raises `DataError` for a wrong prompt or bias."""
        vocabulary = self.model.architecture.vocabulary
        unknown = [token for token in request.biases if not 0 <= token < vocabulary]
        if unknown:
            raise DataError("biases", expected=f"token ids from 0 to {vocabulary - 1}", got=unknown[0])
        if not request.answers:
            self.check_prompt(request.prompt, "prompt", room=0)
            return []
        samplings = [request.sampling, *request.sampling.varied(request.answers - 1)]
        return [
            self.new_completion(request.prompt, sampling, "prompt", visible=request.visible) for sampling in samplings
        ]

    def check_prompt(self, ids: Sequence[int], where: str, *, room: int) -> None:
        """Raise a `DataError` if a prompt is empty, too long for the context, or has unknown token ids."""
        architecture = self.model.architecture
        if not ids:
            raise DataError(where, "is empty; it needs at least the token that begins a document")
        if len(ids) + room > architecture.context:
            most = architecture.context - room
            raise DataError(where, expected=f"at most {most} tokens, for the model's context", got=len(ids))
        if min(ids) < 0 or max(ids) >= architecture.vocabulary:
            unknown = min(ids) if min(ids) < 0 else max(ids)
            raise DataError(where, expected=f"token ids from 0 to {architecture.vocabulary - 1}", got=unknown)
