"""Checks of a request before the model works on it: body, model name, length, queue and content filter.

A failed check raises `ApiError`. Inexpensive checks come first, so that a refused text is not tokenized.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from starlette.requests import Request

from vita.data.records import NO_VARIABLES, Message, TemplateVariables
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import encode_prompt
from vita.data.tokens.template_features import UnwrittenField
from vita.infer.content_filter import ContentFilter
from vita.infer.dialogue import DialogueTooLong, FittedDialogue, fit_dialogue, recent_turns
from vita.infer.request import QueueFull, SchedulerClosed
from vita.infer.scheduler import Scheduler
from vita.server import api
from vita.server.body import read_body
from vita.server.errors import ApiError, invalid, model_not_found, too_long, unavailable
from vita.server.replica.metrics import Metrics
from vita.server.replica.request_events import refusal
from vita.spine.errors import DataError

R = TypeVar("R", bound=api.RequestBody)


@dataclass(frozen=True)
class ServedModel:
    """The model that a replica serves: its names, its defaults and the limits of its requests."""

    names: tuple[str, ...]
    """Names that requests may use; the first is the model id."""
    version: str
    """The label of its metrics."""
    digest: str
    """The model's digest; its first 12 characters are the `system_fingerprint`."""
    created: int = 0
    """Time of the release, in seconds since 1970."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Defaults for `temperature`, `top_p`, `top_k`, `max_tokens` and `stop`."""
    guard: ContentFilter | None = None
    """Refuses prompts and completions."""
    speculation: Mapping[str, Any] | None = None
    """Settings of speculative decoding."""
    batch_invariance: bool = True
    """False if the release gives up that bits of an answer do not depend on the other requests."""
    warnings: Sequence[str] = ()
    """Warnings for the operator, found when the replica started."""
    backend: Mapping[str, Any] = field(default_factory=lambda: {"program": "vita"})
    """The description of the backend `vita` for `/ready` and `/v1/models`."""
    body_bytes: int = 1_000_000
    """Maximum size of a request body."""
    body_seconds: float = 30.0
    """Maximum time until a request body has arrived."""


class RequestChecks:
    """The checks of one replica."""

    def __init__(self, scheduler: Scheduler | None, served: ServedModel) -> None:
        self.scheduler, self.served = scheduler, served
        self.metrics = Metrics(model=served.names[0], version=served.version)
        self._longest: int | None = None

    def ready_or_refuse(self) -> Scheduler:
        """Return the scheduler; raises 503 while the model is loading."""
        if self.scheduler is None:
            raise unavailable("The model is being loaded", code="loading")
        return self.scheduler

    async def read(self, request: Request, model: type[R]) -> R:
        """Read and validate the body of a request."""
        body = await read_body(request, max_bytes=self.served.body_bytes, max_seconds=self.served.body_seconds)
        return api.parse(model, body)

    def check_model(self, name: str) -> None:
        if name not in self.served.names:
            raise model_not_found(name)

    def admit(self, answers: int) -> Scheduler:
        """Check the capacity of the scheduler before the prompts are tokenized."""
        scheduler = self.ready_or_refuse()
        if answers > scheduler.capacity:
            raise invalid(f"A request can have at most {scheduler.capacity} completions, got {answers}", "n")
        try:
            scheduler.check_room(answers)
        except (QueueFull, SchedulerClosed) as error:
            raise refusal(error, self.metrics) from None
        return scheduler

    async def chat_ids(
        self,
        scheduler: Scheduler,
        messages: Sequence[Message],
        variables: TemplateVariables = NO_VARIABLES,
        *,
        answer: bool = True,
        continued: bool = False,
    ) -> list[int]:
        """Encode a dialogue. With `continued` the prompt ends with the text of the last message."""
        self._check_characters(scheduler, sum(len(message.content) for message in messages), "messages")
        template = self.require_template(scheduler)
        tokenizer = scheduler.engine.tokenizer
        try:
            ids = await asyncio.to_thread(
                encode_prompt,
                tokenizer,
                template,
                messages,
                variables,
                add_generation_prompt=answer,
                continue_final_message=continued,
            )
        except DataError as error:
            raise _refused_by_template(error) from None
        if not ids:
            raise invalid("The chat template of the model produces no tokens for this dialogue", "messages")
        return ids

    def require_template(self, scheduler: Scheduler) -> ChatTemplate:
        """Return the chat template; raises 400 for a model that has none."""
        template = scheduler.engine.template
        if template is None:
            message = f"The model `{self.served.names[0]}` continues text and has no chat template; use /v1/completions"
            raise invalid(message, "model", code="no_chat_template")
        return template

    def without_unwritten_names(self, scheduler: Scheduler, messages: list[Message]) -> list[Message]:
        """Return the messages without names of their authors where the chat template does not write these names."""
        if not any(message.name for message in messages) or self.require_template(scheduler).for_tools.features.names:
            return messages
        return [message if message.role == "tool" else replace(message, name=None) for message in messages]

    def check_tools(self, scheduler: Scheduler) -> None:
        """Refuse tools for a model whose calls cannot be parsed."""
        template = self.require_template(scheduler)
        if "tools" not in template.for_tools.variable_names:
            return  # the rendering refuses them by name
        if scheduler.engine.answer_format.calls is None:
            message = "The chat template of the model writes calls in no format that this server can parse"
            raise invalid(message, "tools", code="unsupported_parameter")

    def check_effort(self, scheduler: Scheduler, effort: str | None) -> None:
        """Refuse `reasoning_effort` for a model whose chat template does not read it."""
        if effort is not None and "reasoning_effort" not in self.require_template(scheduler).variable_names:
            message = "`reasoning_effort` is not read by the chat template of the model"
            raise invalid(message, "reasoning_effort", code="unsupported_parameter")

    async def fitted_ids(
        self,
        scheduler: Scheduler,
        messages: Sequence[Message],
        variables: TemplateVariables = NO_VARIABLES,
        *,
        answer_tokens: int | None,
    ) -> FittedDialogue:
        """Encode the longest suffix of a dialogue that fits in the context (the rule is in `vita.infer.dialogue`)."""
        template, tokenizer = self.require_template(scheduler), scheduler.engine.tokenizer
        most = scheduler.context * self._longest_token(scheduler)  # characters; more cannot fit
        recent = recent_turns(messages, characters=most)
        least = recent_turns(messages, characters=0)  # the last turn alone
        self._check_characters(scheduler, sum(len(message.content) for message in least), "messages")

        def encode(part: Sequence[Message]) -> list[int]:
            return encode_prompt(tokenizer, template, part, variables, add_generation_prompt=True)

        try:
            fitted = await asyncio.to_thread(
                fit_dialogue, recent, encode=encode, context=scheduler.context, answer_tokens=answer_tokens
            )
        except DialogueTooLong as error:
            raise too_long(error.context, error.tokens, param="messages") from None
        except DataError as error:
            raise _refused_by_template(error) from None
        if not fitted.ids:
            raise invalid("The chat template of the model produces no tokens for this dialogue", "messages")
        return replace(fitted, dropped=len(messages) - len(fitted.messages))

    async def prompt_ids(
        self, scheduler: Scheduler, prompt: str | list[int], param: str, *, room: int, plain: bool = False
    ) -> list[int]:
        tokenizer = scheduler.engine.tokenizer
        if isinstance(prompt, str):
            self._check_characters(scheduler, len(prompt), param)
            encode = tokenizer.encode if plain else tokenizer.encode_template
            ids = await asyncio.to_thread(encode, prompt) or [tokenizer.document]
        else:
            ids = prompt
            self.check_ids(ids, param)
        self.check_length(scheduler, ids, param, room=room)
        return ids

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        vocabulary = self.ready_or_refuse().engine.model.architecture.vocabulary
        if ids and max(ids) >= vocabulary:
            raise invalid(f"Token ids are from 0 to {vocabulary - 1}, got {max(ids)}", param, code="invalid_value")

    def check_length(self, scheduler: Scheduler, ids: Sequence[int], param: str, *, room: int) -> None:
        if len(ids) + room > scheduler.context:
            raise too_long(scheduler.context, len(ids), param=param)

    def _check_characters(self, scheduler: Scheduler, characters: int, param: str) -> None:
        """Refuse, before tokenization, a text that exceeds the context in every tokenization."""
        least = -(-characters // self._longest_token(scheduler))
        if least > scheduler.context:
            raise too_long(scheduler.context, least, param=param, exact=False)

    def _longest_token(self, scheduler: Scheduler) -> int:
        tokenizer = scheduler.engine.tokenizer
        if self._longest is None:
            self._longest = max(1, *(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocabulary)))
        return self._longest

    def refused(self, messages: Sequence[Message]) -> str | None:
        return None if self.served.guard is None else self.served.guard.refuses_input(messages)


def to_messages(messages: Sequence[api.ChatMessage]) -> list[Message]:
    """Convert the messages of a request for the chat template."""
    return [message.as_message() for message in messages]


def _refused_by_template(error: DataError) -> ApiError:
    """Return the error for a dialogue that the chat template refuses, with the field that it does not write."""
    if isinstance(error, UnwrittenField):
        place, _, name = error.field.partition(".")
        text = str(error)
        if place.startswith("messages["):  # the dialects rename this field in the message
            number = int(place[len("messages[") : -1]) + 1
            text = text.replace(f"`{name}` of message {number}", f"`{error.field}`").replace(
                f"`{name}`", f"`{error.field}`"
            )
        return invalid(text, error.field, code="unsupported_parameter")
    return invalid(str(error), "messages")
