"""The HTTP application of a replica: the routes of the OpenAI API over a scheduler, and its status routes.

app = create_app(scheduler, ServedModel(names=("cat", "cat:1"), version="cat:1", digest=digest))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import torch
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from vita.infer.adapter_scheduler import AdapterScheduler
from vita.infer.request import GenerationRequest, PromptEvent
from vita.infer.scheduler import Scheduler
from vita.infer.text_model import cut_embeddings
from vita.infer.text_scheduler import TextScheduler
from vita.server import api, routes, text_api
from vita.server.application import Endpoint, create_application
from vita.server.backends.remote_scheduler import RemoteScheduler
from vita.server.backends.unsupported import refuse_unsupported
from vita.server.decoding_options import switch
from vita.server.errors import BACKEND_UNAVAILABLE, internal, unavailable
from vita.server.json_response import json_response
from vita.server.middleware import standard_middleware
from vita.server.openapi import ApiDescription
from vita.server.replica import adapter_routes
from vita.server.replica.adapters import Adapters
from vita.server.replica.generation import GenerationRoutes
from vita.server.replica.metrics import CONTENT_TYPE
from vita.server.replica.replica_auth import SECRET_HEADER, ReplicaAuth
from vita.server.replica.request_checks import ServedModel
from vita.server.replica.request_events import RequestEvents
from vita.server.replica.responses import (
    token_text,
)
from vita.server.replica.rotating_secrets import RotatingSecrets
from vita.server.replica.text_routes import (
    TextEndpoints,
    check_dimensions,
    embedding_response,
    unsupported_endpoint,
)

AnyScheduler = Scheduler | AdapterScheduler | TextScheduler | RemoteScheduler
R = TypeVar("R", bound=api.RequestBody)
GENERATING = (routes.CHAT_COMPLETIONS, routes.COMPLETIONS)
"""The routes that generate text."""

DRAIN = routes.Route("POST", "/drain", "Refuse new requests and finish those in flight.", errors=(503,))


def create_app(
    scheduler: AnyScheduler | None,
    served: ServedModel,
    *,
    secret: str | RotatingSecrets = "",
    adapters: Adapters | None = None,
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


class ReplicaRoutes(GenerationRoutes):
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
            chat = params.as_chat(self.served.names[0])
            ids = await self.dialogue_ids(scheduler, chat, answer=params.add_generation_prompt)
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
            raise unavailable(f"The backend {program} is not available: {problem}", code=BACKEND_UNAVAILABLE)
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

    def _card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self.served.created, "owned_by": "vita"}
        context, steady = (self.scheduler.context, self.scheduler.batch_invariant) if self.scheduler else (None, None)
        card |= {"version": self.served.version, "digest": self.served.digest, "max_model_len": context}
        card["context_length"] = context
        backend = self.remote.program.describe() if self.remote else dict(self.served.backend)
        card |= {"bitwise_reproducible": steady, "backend": backend}
        card["batch_invariance"] = switch(self.served.batch_invariance and not self.remote)
        if self.served.speculation:
            card["speculation"] = dict(self.served.speculation)
        return card
