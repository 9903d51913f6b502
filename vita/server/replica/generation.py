"""The routes of a replica that generate text: chat completions and completions, complete or streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from vita.data.records import Message, TemplateVariables
from vita.infer.grammars import Constraint
from vita.infer.request import GenerationRequest, PromptEvent, TokenEvent
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.server import api, routes
from vita.server.backends.remote_scheduler import RemoteScheduler
from vita.server.backends.unsupported import refuse_unsupported
from vita.server.errors import ApiError, ClientLeft
from vita.server.json_response import json_response
from vita.server.line_json import DONE, json_event
from vita.server.replica.answer_parts import AnswerParts, prompt_tail
from vita.server.replica.constraints import chat_constraint, completion_constraint
from vita.server.replica.reasoning_tokens import ReasoningTokens
from vita.server.replica.request_checks import RequestChecks, to_messages
from vita.server.replica.request_events import RequestEvents
from vita.server.replica.responses import (
    ChatBody,
    CompletionsBody,
    Echo,
    ResponseBody,
    ResponseChoice,
    usage,
)
from vita.server.replica.text_routes import TextEndpoints


class GenerationRoutes(RequestChecks):
    """The endpoints that generate text."""

    remote: RemoteScheduler | None
    """The scheduler of a replica whose answers another program computes."""
    texts: TextEndpoints | None
    """The endpoints of a model that reads whole texts, which generates none."""

    # -- chat

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        params = await self.read(request, api.ChatRequest)
        self.check_model(params.model)
        self._refuse_texts(routes.CHAT_COMPLETIONS)
        scheduler = self.admit(params.n)
        messages, variables = self._checked_dialogue(scheduler, params)
        dropped = 0
        if params.truncation == "auto":
            default_limit = self.served.sampling.get("max_tokens")
            answer_tokens = params.limit or (int(default_limit) if default_limit else None)
            fitted = await self.fitted_ids(scheduler, messages, variables, answer_tokens=answer_tokens)
            messages, ids, dropped = fitted.messages, fitted.ids, fitted.dropped
        else:
            ids = await self.chat_ids(
                scheduler,
                messages,
                variables,
                answer=params.add_generation_prompt is not False,
                continued=params.continue_final_message,
            )
            self.check_length(scheduler, ids, "messages", room=1)
        refused = self.refused(messages)
        top = (params.top_logprobs or 0) if params.logprobs else None
        engine = scheduler.engine
        prompt_end = prompt_tail(engine.tokenizer, ids, messages, continued=params.continue_final_message)
        constraint, forced = await self._forced_ids(scheduler, params, ids, prompt_end=prompt_end)
        ids = [*ids, *forced]
        ask = self._ask(params, ids, limit=params.limit, top=top, visible=engine.visible_ids, constraint=constraint)
        head = {**self._head("chatcmpl", params), **({"dropped_messages": dropped} if dropped else {})}
        answers = AnswerParts(
            engine.answer_format, params.offered_tools, prompt_end=prompt_end, parallel=params.allows_several_calls,
            only_calls=params.requires_calls,
        )  # fmt: skip
        body = ChatBody(head, engine.tokenizer, logprobs=params.logprobs, answers=answers)
        text = engine.tokenizer.decode(forced, special=True)
        choices = [
            ResponseChoice(
                index, engine.tokenizer, self.served.guard, visible=engine.visible_ids, text=text,
                reasoning=ReasoningTokens(engine.answer_format, prompt_end=prompt_end, text=text),
            )
            for index in range(params.n)
        ]  # fmt: skip
        return await self._answer(request, params, body, [ask], choices, refused, prompt_tokens=len(ids))

    def _checked_dialogue(
        self, scheduler: Scheduler, params: api.ChatRequest
    ) -> tuple[list[Message], TemplateVariables]:
        """Return the messages and the variables of the chat template; refuses what the model does not support."""
        messages = self.without_unwritten_names(scheduler, to_messages(params.messages))
        has_tools = bool(params.offered_tools)
        if has_tools:
            self.check_tools(scheduler)
        self.check_effort(scheduler, params.reasoning_effort)
        return messages, params.variables(with_tools=has_tools)

    async def dialogue_ids(self, scheduler: Scheduler, params: api.ChatRequest, *, answer: bool) -> list[int]:
        """Return the tokens of the prompt of a chat request, with those that its constraint forces.

        A field that a chat request with this dialogue may not have is refused here also.
        """
        if self.remote is not None:
            refuse_unsupported(params, self.remote.program)
        messages, variables = self._checked_dialogue(scheduler, params)
        continued = params.continue_final_message
        ids = await self.chat_ids(scheduler, messages, variables, answer=answer and not continued, continued=continued)
        if not answer:
            return ids
        prompt_end = prompt_tail(scheduler.engine.tokenizer, ids, messages, continued=continued)
        _, forced = await self._forced_ids(scheduler, params, ids, prompt_end=prompt_end)
        return [*ids, *forced]

    async def _forced_ids(
        self, scheduler: Scheduler, params: api.ChatRequest, ids: Sequence[int], *, prompt_end: str
    ) -> tuple[Constraint | None, list[int]]:
        """Return the constraint of an answer and the tokens that it forces, which are read with the prompt.

        Log-probabilities need these tokens in the answer.
        """
        constraint = await chat_constraint(scheduler.engine, params, prompt_end=prompt_end)
        room = max(0, scheduler.context - len(ids) - 1)
        return constraint, constraint.take_forced(room) if constraint and not params.logprobs else []

    # -- completions

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions"""
        params = await self.read(request, api.CompletionRequest)
        self.check_model(params.model)
        self._refuse_texts(routes.COMPLETIONS)
        scheduler = self.admit(len(params.prompts) * params.n)
        tokenizer = scheduler.engine.tokenizer
        room = 0 if params.max_tokens == 0 else 1
        prompts = [await self.prompt_ids(scheduler, prompt, "prompt", room=room) for prompt in params.prompts]
        texts = [tokenizer.decode(ids, special=True) for ids in prompts]
        refused = next((refusal for text in texts if (refusal := self.refused([Message("user", text)]))), None)
        constraint = await completion_constraint(scheduler.engine, params)
        asks = [
            self._ask(
                params, ids, limit=params.max_tokens, top=params.logprobs, constraint=constraint,
                prompt_logprobs=params.echo and params.logprobs is not None,
            )
            for ids in prompts
        ]  # fmt: skip
        echoes = [
            Echo(prompt if isinstance(prompt, str) and prompt else text, ids)
            for prompt, text, ids in zip(params.prompts, texts, prompts, strict=True)
        ]
        logprobs = params.logprobs is not None
        body = CompletionsBody(
            self._head("cmpl", params), tokenizer, n=params.n, logprobs=logprobs, echoes=echoes if params.echo else None
        )
        choices = [ResponseChoice(index, tokenizer, self.served.guard) for index in range(len(prompts) * params.n)]
        prompt_tokens = sum(map(len, prompts))
        return await self._answer(request, params, body, asks, choices, refused, prompt_tokens=prompt_tokens)

    # -- chat and completions

    def _ask(
        self,
        params: api.Decoding,
        ids: list[int],
        *,
        limit: int | None,
        top: int | None,
        prompt_logprobs: bool = False,
        visible: frozenset[int] = frozenset(),
        constraint: Constraint | None = None,
    ) -> GenerationRequest:
        defaults = self.served.sampling
        self.check_ids(list(params.biases), "logit_bias")
        requested = {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
        values = {name: defaults.get(name) if value is None else value for name, value in requested.items()}
        if values["top_p"] == 0:
            values["top_p"] = 1e-9  # only the most likely token
        if limit is None:
            # Default without a setting of the release: 16 for a completion as OpenAI has it, the context for a chat.
            default_limit = 16 if isinstance(params, api.CompletionRequest) else self.ready_or_refuse().context
            limit = int(defaults.get("max_tokens") or default_limit)
        sampling = Sampling.model_validate(
            {name: value for name, value in values.items() if value is not None}
            | {
                "max_tokens": max(1, limit),
                "stop": params.stops or tuple(() if constraint else defaults.get("stop") or ()),
            }
            # Python's generator uses the absolute value of a seed; the modulo keeps all seeds distinct.
            | {"seed": secrets.randbits(63) if params.seed is None else params.seed % 2**64}
        )
        return GenerationRequest(
            ids, sampling, answers=params.n if limit else 0, top=top, biases=params.biases,
            presence=params.presence_penalty, frequency=params.frequency_penalty,
            repetition=params.repetition_penalty or 1.0, min_p=params.min_p or 0.0, prompt_logprobs=prompt_logprobs,
            visible=visible, constraint=constraint,
        )  # fmt: skip

    async def _answer(
        self,
        request: Request,
        params: api.Decoding,
        body: ResponseBody,
        asks: list[GenerationRequest],
        choices: list[ResponseChoice],
        refused: str | None,
        *,
        prompt_tokens: int,
    ) -> Response:
        """Create the response: complete or streamed, or the refusal of the content filter."""
        request_events = RequestEvents(self.ready_or_refuse(), self.metrics, request.receive)
        updates = self._updates(request_events, asks, choices, refused, body)

        def counts() -> dict[str, Any]:
            return usage(prompt_tokens, choices, reused_tokens=request_events.reused_tokens)

        if not params.stream:
            async for _ in updates:
                pass
            return json_response({**body.complete(choices), "usage": counts()})
        options = params.stream_options or api.StreamOptions()
        # Wait for the first event before the headers, so that an early error has its own status.
        first = await anext(updates, None)

        def with_usage(chunk: dict[str, Any]) -> bytes:
            """Return the event of a chunk with choices."""
            if not options.include_usage:
                return json_event(chunk)
            return json_event({**chunk, "usage": counts() if options.continuous_usage_stats else None})

        async def chunks() -> AsyncIterator[bytes]:
            try:
                for opening in body.opening(choices):
                    yield with_usage(opening)
                if first is not None:
                    for chunk in self._chunks(body, first):
                        yield with_usage(chunk)
                async for choice in updates:
                    for chunk in self._chunks(body, choice):
                        yield with_usage(chunk)
                if options.include_usage:
                    yield json_event(body.closing(counts()))
                yield DONE
            except ApiError as error:
                yield json_event(error.body())  # the status is already sent
            except ClientLeft:
                pass
            finally:
                await updates.aclose()

        return StreamingResponse(chunks(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    @staticmethod
    def _chunks(body: ResponseBody, choice: ResponseChoice) -> Iterable[dict[str, Any]]:
        delta = choice.take_delta()
        return () if delta is None else body.chunks(choice, delta)

    async def _updates(
        self,
        request_events: RequestEvents,
        asks: list[GenerationRequest],
        choices: list[ResponseChoice],
        refused: str | None,
        body: ResponseBody,
    ) -> AsyncGenerator[ResponseChoice]:
        """Yield a choice each time that it has a new token."""
        if refused is not None:
            self.metrics.add("guard_refusals", label="input")
            for choice in choices:
                choice.text, choice.finish, choice.refused = refused, "content_filter", True
                self.metrics.add("request_finished", label="content_filter")
                yield choice
            return
        request_events.begin(asks)
        choices_per_prompt = len(choices) // len(asks)
        async for index, event in request_events.events():
            prompt_choices = choices[index * choices_per_prompt : (index + 1) * choices_per_prompt]
            if isinstance(event, PromptEvent):
                body.read(index, event)
                for choice in prompt_choices if not asks[index].answers else ():
                    choice.finish = "length"
                    yield choice
            elif isinstance(event, TokenEvent) and not prompt_choices[event.answer].finish:
                choice = prompt_choices[event.answer]
                choice.take(event)
                if choice.finish:
                    self.metrics.add("request_finished", label=choice.finish)
                if choice.refused:
                    self.metrics.add("guard_refusals", label="output")
                    if all(choice.finish for choice in prompt_choices):
                        request_events.finish_prompt(index)
                yield choice

    def _refuse_texts(self, route: routes.Route) -> None:
        """Refuse a model that reads whole texts."""
        if self.texts is not None:
            raise self.texts.refusal(route)

    def _head(self, kind: str, params: api.Decoding) -> dict[str, Any]:
        name = "chat.completion" if kind == "chatcmpl" else "text_completion"
        head = {"id": f"{kind}-{secrets.token_hex(14)}", "object": name, "created": int(time.time())}
        return {**head, "model": params.model, "system_fingerprint": self.served.digest[:12]}
