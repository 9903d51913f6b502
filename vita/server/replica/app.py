"""The HTTP application of a replica: the routes of the OpenAI API over a scheduler, and its status routes.

app = create_app(scheduler, ServedModel(names=("cat", "cat:1"), version="cat:1", digest=digest))
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import orjson
import torch
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from vita.data.records import Message
from vita.infer.adapter_scheduler import AdapterScheduler
from vita.infer.grammars import Constraint
from vita.infer.request import GenerationRequest, PromptEvent, TokenEvent
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.infer.text_model import cut_embeddings
from vita.infer.text_scheduler import TextScheduler
from vita.server import api, routes, text_api
from vita.server.application import Endpoint, create_application
from vita.server.backends.remote_scheduler import RemoteScheduler
from vita.server.backends.unsupported import refuse_unsupported
from vita.server.errors import ApiError, ClientLeft, internal, unavailable
from vita.server.json_response import json_response
from vita.server.middleware import standard_middleware
from vita.server.openapi import ApiDescription
from vita.server.replica import adapter_routes
from vita.server.replica.adapters import Adapters
from vita.server.replica.answer_parts import AnswerParts, prompt_tail
from vita.server.replica.constraints import chat_constraint, completion_constraint
from vita.server.replica.metrics import CONTENT_TYPE
from vita.server.replica.replica_auth import SECRET_HEADER, ReplicaAuth
from vita.server.replica.request_checks import RequestChecks, ServedModel, to_messages
from vita.server.replica.request_events import RequestEvents
from vita.server.replica.responses import (
    ChatBody,
    CompletionsBody,
    Echo,
    ResponseBody,
    ResponseChoice,
    token_text,
    usage,
)
from vita.server.replica.text_routes import (
    TextEndpoints,
    check_dimensions,
    embedding_response,
    unsupported_endpoint,
)

AnyScheduler = Scheduler | AdapterScheduler | TextScheduler | RemoteScheduler
DONE = b"data: [DONE]\n\n"
R = TypeVar("R", bound=api.RequestBody)
GENERATING = (routes.CHAT_COMPLETIONS, routes.COMPLETIONS)
"""The routes that generate text."""

DRAIN = routes.Route("POST", "/drain", "Refuse new requests and finish those in flight.", errors=(503,))


def create_app(
    scheduler: AnyScheduler | None, served: ServedModel, *, secret: str = "", adapters: Adapters | None = None
) -> Starlette:
    """Create the application of a replica; without a scheduler it is alive but not ready.

    With a `secret`, every route but `/health` requires it.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await replica.adapters.close()
        if replica.scheduler is not None:
            await asyncio.to_thread(replica.scheduler.close)

    replica = ReplicaRoutes(scheduler, served, adapters=adapters)
    middleware = standard_middleware(
        accept_client_ids=True, on_status=lambda status: replica.metrics.add("http_requests", label=str(status))
    )
    if secret:
        middleware.append(Middleware(ReplicaAuth, secret=secret))
    description = ApiDescription(
        "Vita replica",
        served.version,
        security={"type": "apiKey", "in": "header", "name": SECRET_HEADER},
        security_optional=not secret,
    )
    app = create_application(_endpoints(replica), description=description, middleware=middleware, lifespan=lifespan)
    app.state.replica = replica
    return app


def _endpoints(replica: ReplicaRoutes) -> list[tuple[routes.Route, Endpoint]]:
    """Pair each route of a replica with its handler."""
    return [
        (routes.CHAT_COMPLETIONS, replica.adapters.selected("chat")),
        (routes.COMPLETIONS, replica.adapters.selected("completions")),
        (routes.EMBEDDINGS, replica.adapters.selected("embeddings")),
        (routes.RERANK, replica.adapters.selected("rerank")),
        (routes.RERANK_UNVERSIONED, replica.adapters.selected("rerank")),
        (routes.CLASSIFY, replica.adapters.selected("classify")),
        (routes.FILL_MASK, replica.adapters.selected("fill_mask")),
        (routes.TOKENIZE, replica.adapters.selected("tokenize")),
        (routes.DETOKENIZE, replica.adapters.selected("detokenize")),
        (routes.TOKENIZER_INFO, replica.tokenizer_info),
        (routes.MODELS, replica.models),
        (routes.MODEL, replica.model),
        (routes.HEALTH, replica.health),
        (routes.READY, replica.ready),
        (routes.METRICS, replica.figures),
        (DRAIN, replica.drain),
        (adapter_routes.ADD, replica.adapters.add),
        (adapter_routes.REMOVE, replica.adapters.remove),
    ]


class ReplicaRoutes(RequestChecks):
    """The endpoints of a replica."""

    def __init__(
        self, scheduler: AnyScheduler | None, served: ServedModel, *, adapters: Adapters | None = None
    ) -> None:
        super().__init__(cast("Scheduler | None", scheduler), served)  # all have what the checks and probes read
        self.remote = scheduler if isinstance(scheduler, RemoteScheduler) else None
        self.texts: TextEndpoints | None = None
        if isinstance(scheduler, TextScheduler):
            self.texts = TextEndpoints(scheduler, served, self.metrics, self.refused)
        self.adapters = adapter_routes.AdapterRoutes(self, adapters)
        gauges: dict[str, Callable[[Any], float]] = {
            "requests_running": lambda scheduler: scheduler.running,
            "requests_waiting": lambda scheduler: scheduler.waiting,
            "kv_cache_usage": lambda scheduler: scheduler.cache_usage,
            "draining": lambda scheduler: scheduler.draining,
        }
        for name, read in gauges.items():
            self.metrics.watch(name, lambda read=read: read(self.scheduler) if self.scheduler else 0)

    async def read(self, request: Request, model: type[R]) -> R:
        params = await super().read(request, model)
        if self.remote is not None:
            refuse_unsupported(params, self.remote.program)
        return params

    def beside(self, scheduler: Scheduler | AdapterScheduler, served: ServedModel) -> ReplicaRoutes:
        """Return the routes of an adapter, which count in the metrics of this replica."""
        adapter = ReplicaRoutes(scheduler, served)
        adapter.metrics = self.metrics
        return adapter

    # -- chat

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        params = await self.read(request, api.ChatRequest)
        self.check_model(params.model)
        self._refuse_texts(routes.CHAT_COMPLETIONS)
        scheduler = self.admit(params.n)
        messages = self.without_unwritten_names(scheduler, to_messages(params.messages))
        tools = params.offered_tools
        variables = params.variables(with_tools=bool(tools))
        if tools:
            self.check_tools(scheduler)
        self.check_effort(scheduler, params.reasoning_effort)
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
        constraint = await chat_constraint(engine, params, prompt_end=prompt_end)
        # The text that the grammar forces is read with the prompt. Log-probabilities need its tokens in the answer, and
        # another program reads the grammar from its start.
        room = scheduler.context - len(ids) - 1
        is_taken = constraint is not None and not params.logprobs and self.remote is None
        forced = constraint.take_forced(room) if constraint and is_taken else []
        ids = [*ids, *forced]
        ask = self._ask(params, ids, limit=params.limit, top=top, visible=engine.visible_ids, constraint=constraint)
        head = {**self._head("chatcmpl", params), **({"dropped_messages": dropped} if dropped else {})}
        answers = AnswerParts(
            engine.answer_format, tools, prompt_end=prompt_end, parallel=params.parallel_tool_calls is not False
        )
        body = ChatBody(head, engine.tokenizer, logprobs=params.logprobs, answers=answers)
        text = engine.tokenizer.decode(forced, special=True)
        choices = [
            ResponseChoice(index, engine.tokenizer, self.served.guard, visible=engine.visible_ids, text=text)
            for index in range(params.n)
        ]
        return await self._answer(request, params, body, [ask], choices, refused, prompt_tokens=len(ids))

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
        if not params.stream:
            async for _ in updates:
                pass
            counts = usage(prompt_tokens, choices, reused_tokens=request_events.reused_tokens)
            return json_response({**body.complete(choices), "usage": counts})
        with_usage = params.stream_options is not None and params.stream_options.include_usage
        # Wait for the first event before the headers, so that an early error has its own status.
        first = await anext(updates, None)

        async def chunks() -> AsyncIterator[bytes]:
            extra = {"usage": None} if with_usage else {}
            try:
                for opening in body.opening(choices):
                    yield _event({**opening, **extra})
                if first is not None:
                    for chunk in self._chunks(body, first):
                        yield _event({**chunk, **extra})
                async for choice in updates:
                    for chunk in self._chunks(body, choice):
                        yield _event({**chunk, **extra})
                if with_usage:
                    counts = usage(prompt_tokens, choices, reused_tokens=request_events.reused_tokens)
                    yield _event(body.closing(counts))
                yield DONE
            except ApiError as error:
                yield _event(error.body())  # the status is already sent
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

    # -- embeddings

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        params = await self.read(request, api.EmbeddingRequest)
        self.check_model(params.model)
        if self.texts is not None:
            return await self.texts.embeddings(request, params)
        if self.remote is not None and not self.remote.client.embeds:
            kind = f"is computed by the backend `{self.remote.program.settings.program}`"
            raise unsupported_endpoint(self.served.names[0], kind, routes.EMBEDDINGS, GENERATING)
        scheduler = self.admit(len(params.inputs))
        check_dimensions(params.dimensions, scheduler.engine.model.architecture.width)
        inputs = [await self.prompt_ids(scheduler, text, "input", room=0, plain=True) for text in params.inputs]
        request_events = RequestEvents(scheduler, self.metrics, request.receive)
        request_events.begin([GenerationRequest(ids, answers=0, embedding=True) for ids in inputs])
        embeddings: dict[int, Sequence[float]] = {}
        async for index, event in request_events.events():
            assert isinstance(event, PromptEvent)
            assert event.embedding is not None
            vector = event.embedding
            if params.dimensions is not None:
                vector = cut_embeddings(torch.tensor(vector), params.dimensions).tolist()
            embeddings[index] = vector
        rows = [embeddings[index] for index in range(len(inputs))]
        return embedding_response(params, rows, tokens=sum(map(len, inputs)))

    # -- rerank, classify, fill-mask

    async def rerank(self, request: Request) -> Response:
        """POST /v1/rerank"""
        params = await self.read(request, text_api.RerankRequest)
        self.check_model(params.model)
        return await self._require_texts(routes.RERANK).rerank(request, params)

    async def classify(self, request: Request) -> Response:
        """POST /v1/classify"""
        params = await self.read(request, text_api.ClassifyRequest)
        self.check_model(params.model)
        return await self._require_texts(routes.CLASSIFY).classify(request, params)

    async def fill_mask(self, request: Request) -> Response:
        """POST /v1/fill-mask"""
        params = await self.read(request, text_api.FillMaskRequest)
        self.check_model(params.model)
        return await self._require_texts(routes.FILL_MASK).fill_mask(request, params)

    def _require_texts(self, route: routes.Route) -> TextEndpoints:
        """Return the endpoints of a model that reads whole texts; refuse a model that generates text."""
        if self.texts is None:
            self.ready_or_refuse()
            supported = (routes.CHAT_COMPLETIONS, routes.COMPLETIONS, routes.EMBEDDINGS)
            raise unsupported_endpoint(self.served.names[0], "generates text", route, supported)
        return self.texts

    def _refuse_texts(self, route: routes.Route) -> None:
        """Refuse a model that reads whole texts."""
        if self.texts is not None:
            raise self.texts.refusal(route)

    # -- models, tokens

    async def models(self, _: Request) -> Response:
        """GET /v1/models"""
        cards = [self._card(name) for name in self.served.names]
        cards += [{**adapter._card(name), "base": self.served.digest} for name, adapter in self.adapters.loaded.items()]
        return json_response({"object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        name = request.path_params["id"]
        if adapter := self.adapters.loaded.get(name):
            return json_response({**adapter._card(name), "base": self.served.digest})
        self.check_model(name)
        return json_response(self._card(name))

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        params = await self.read(request, api.TokenizeRequest)
        if params.model is not None:
            self.check_model(params.model)
        scheduler = self.ready_or_refuse()
        tokenizer = scheduler.engine.tokenizer
        if params.prompt is not None:
            ids = await asyncio.to_thread(tokenizer.encode_template, params.prompt)
        else:
            messages = to_messages(params.messages or ())
            ids = await self.chat_ids(
                scheduler,
                messages,
                params.variables(),
                answer=params.add_generation_prompt and not params.continue_final_message,
                continued=params.continue_final_message,
            )
        strings = [token_text(tokenizer, token) for token in ids] if params.return_token_strs else None
        return json_response(
            {"count": len(ids), "max_model_len": scheduler.context, "tokens": ids, "token_strs": strings}
        )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        params = await self.read(request, api.DetokenizeRequest)
        if params.model is not None:
            self.check_model(params.model)
        tokenizer = self.ready_or_refuse().engine.tokenizer
        self.check_ids(params.tokens, "tokens")
        return json_response({"prompt": tokenizer.decode(params.tokens, special=True)})

    async def tokenizer_info(self, _: Request) -> Response:
        """GET /tokenizer_info"""
        engine = self.ready_or_refuse().engine
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        template = engine.template.source if engine.template is not None else None
        info = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, "add_bos_token": False}
        info |= {"vocab_size": engine.tokenizer.vocabulary, "model_max_length": self.ready_or_refuse().context}
        return json_response({**info, **{name: engine.tokenizer.name_of(name) for name in names}})

    # -- probes

    async def health(self, _: Request) -> Response:
        """GET /health"""
        if self.scheduler is not None and not self.scheduler.alive:
            raise internal("The worker thread has ended; restart the replica")
        return json_response({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """GET /ready"""
        scheduler = self.scheduler
        if scheduler is None or scheduler.draining or not scheduler.alive:
            reason = "loading" if scheduler is None else "draining" if scheduler.alive else "broken"
            raise unavailable(f"The replica is {reason}", code=reason)
        if self.remote is not None and (problem := await self.remote.why_unavailable()):
            program = self.remote.program.settings.program
            raise unavailable(f"The backend {program} is not available: {problem}", code="backend_unavailable")
        status: dict[str, Any] = {"status": "ready", "model": self.served.names[0], "digest": self.served.digest}
        status["backend"] = self.remote.program.describe() if self.remote else dict(self.served.backend)
        status |= {"max_model_len": scheduler.context, "bitwise_reproducible": scheduler.batch_invariant}
        return json_response({**status, "warnings": list(self.served.warnings)})

    async def figures(self, _: Request) -> Response:
        """GET /metrics"""
        return Response(self.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def drain(self, _: Request) -> Response:
        """POST /drain"""
        scheduler = self.ready_or_refuse()
        scheduler.drain()
        self.adapters.drain()
        return json_response({"draining": True, "in_flight": scheduler.in_flight})

    def _head(self, kind: str, params: api.Decoding) -> dict[str, Any]:
        name = "chat.completion" if kind == "chatcmpl" else "text_completion"
        head = {"id": f"{kind}-{secrets.token_hex(14)}", "object": name, "created": int(time.time())}
        return {**head, "model": params.model, "system_fingerprint": self.served.digest[:12]}

    def _card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self.served.created, "owned_by": "vita"}
        context, steady = (self.scheduler.context, self.scheduler.batch_invariant) if self.scheduler else (None, None)
        card |= {"version": self.served.version, "digest": self.served.digest, "max_model_len": context}
        card["context_length"] = context
        backend = self.remote.program.describe() if self.remote else dict(self.served.backend)
        card |= {"bitwise_reproducible": steady, "backend": backend}
        if self.served.speculation:
            card["speculation"] = dict(self.served.speculation)
        return card


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
