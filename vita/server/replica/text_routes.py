"""The endpoints of a replica whose model reads whole texts: embeddings, rerank, classify and fill-mask.

The texts of concurrent requests are computed together (`vita.infer.text_scheduler`). Endpoints that the model does not
support are refused with those that it supports.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from vita.data.records import Message
from vita.data.tokens.text_encoding import EncodedText
from vita.infer.request import QueueFull, SchedulerClosed
from vita.infer.text_model import MaskedToken, Task, TextRequest, cut_embeddings, masked_tokens
from vita.infer.text_scheduler import TextScheduler
from vita.server import api, routes, text_api
from vita.server.errors import ApiError, ClientLeft, internal, invalid, too_long, unavailable
from vita.server.json_response import json_response
from vita.server.replica.request_checks import ServedModel
from vita.server.replica.request_events import refusal
from vita.server.routes import Route
from vita.spine.errors import DataError, ModelError

ENDPOINTS: dict[Task, tuple[Route, ...]] = {
    "embedding": (routes.EMBEDDINGS, routes.RERANK),
    "classification": (routes.CLASSIFY, routes.RERANK),
    "masked": (routes.FILL_MASK,),
}
"""The endpoints of each task."""
KINDS: dict[Task, str] = {
    "classification": "is a sequence classifier",
    "embedding": "is an embedding model",
    "masked": "is a masked-language model",
}


def unsupported_endpoint(name: str, kind: str, route: Route, supported: Sequence[Route]) -> ApiError:
    """The model does not support an endpoint; the error names those that it supports."""
    endpoints = " and ".join(f"{other.method} {other.path}" for other in supported)
    message = f"The model `{name}` {kind} and does not support {route.method} {route.path}; use {endpoints}"
    return invalid(message, "model", code="unsupported_endpoint")


class TextEndpoints:
    """The endpoints over one scheduler of texts."""

    def __init__(
        self,
        scheduler: TextScheduler,
        served: ServedModel,
        metrics: Any,
        refused: Callable[[Sequence[Message]], str | None],
    ) -> None:
        self.scheduler, self.model, self.served, self.metrics = scheduler, scheduler.engine, served, metrics
        self._refused = refused
        scheduler.on_start = lambda seconds: metrics.observe("request_queue_time_seconds", seconds)

    @property
    def supported(self) -> list[Route]:
        """The endpoints that the model supports."""
        endpoints = [route for task in self.model.tasks for route in ENDPOINTS[task]]
        if not self._can_rerank:
            endpoints = [route for route in endpoints if route is not routes.RERANK]
        return list(dict.fromkeys(endpoints))

    @property
    def _can_rerank(self) -> bool:
        """True for embeddings, and for classifiers with one output or two classes."""
        labels = self.model.labels
        return "embedding" in self.model.tasks or (labels is not None and len(labels.labels) <= 2)

    def refusal(self, route: Route) -> ApiError:
        """Return the error of an endpoint that the model does not support."""
        return unsupported_endpoint(self.served.names[0], KINDS[self.model.tasks[0]], route, self.supported)

    def require(self, route: Route) -> None:
        """Refuse an endpoint that the model does not support."""
        if route not in self.supported:
            raise self.refusal(route)

    # -- endpoints

    async def embeddings(self, request: Request, params: api.EmbeddingRequest) -> Response:
        """POST /v1/embeddings"""
        self.require(routes.EMBEDDINGS)
        self._check_content([text for text in params.inputs if isinstance(text, str)])
        width = self.model.model.architecture.width
        check_dimensions(params.dimensions, width)
        texts = [await self._embedding_input(text) for text in params.inputs]
        vectors = await self._compute(request, [TextRequest(text, "embedding") for text in texts])
        embeddings = [cut_embeddings(vector, params.dimensions).tolist() for vector in vectors]
        return embedding_response(params, embeddings, tokens=_tokens(texts))

    async def rerank(self, request: Request, params: text_api.RerankRequest) -> Response:
        """POST /v1/rerank"""
        self.require(routes.RERANK)
        self._check_content([params.query, *params.texts])
        if self.model.labels is None:
            scores, tokens = await self._cosines(request, params)
        else:
            scores, tokens = await self._pair_scores(request, params)
        order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[: params.top_n]
        results = [
            {"index": index, "relevance_score": scores[index]}
            | ({"document": {"text": params.texts[index]}} if params.return_documents else {})
            for index in order
        ]
        head = {"id": f"rerank-{secrets.token_hex(14)}", "object": "list", "model": params.model}
        return json_response({**head, "results": results, "usage": _usage(tokens)})

    async def classify(self, request: Request, params: text_api.ClassifyRequest) -> Response:
        """POST /v1/classify"""
        self.require(routes.CLASSIFY)
        self._check_content([text for texts in params.inputs for text in texts])
        texts = await self._encode(params.inputs)
        for text in texts:
            self._check_length(text)
        logits = await self._compute(request, [TextRequest(text, "classification") for text in texts])
        data = []
        for index, row in enumerate(logits):
            scores = self.model.label_scores(row)
            label = max(scores, key=lambda name: scores[name])
            probabilities = {"probs": list(scores.values()), "num_classes": len(scores), "scores": scores}
            data.append({"index": index, "label": label, **probabilities})
        head = {"id": f"classify-{secrets.token_hex(14)}", "object": "list", "created": int(time.time())}
        return json_response({**head, "model": params.model, "data": data, "usage": _usage(_tokens(texts))})

    async def fill_mask(self, request: Request, params: text_api.FillMaskRequest) -> Response:
        """POST /v1/fill-mask"""
        self.require(routes.FILL_MASK)
        self._check_content(params.inputs)
        try:
            masked = [await asyncio.to_thread(self.model.masked_request, text) for text in params.inputs]
        except DataError as error:
            raise invalid(str(error), "input") from None
        logits = await self._compute(request, masked)
        data = [
            {"index": index, "masks": self._masks(masked_request, masked_tokens(rows, top=params.top_k))}
            for index, (masked_request, rows) in enumerate(zip(masked, logits, strict=True))
        ]
        tokens = _tokens([masked_request.text for masked_request in masked])
        head = {"id": f"fillmask-{secrets.token_hex(14)}", "object": "list", "model": params.model}
        return json_response({**head, "data": data, "usage": _usage(tokens)})

    def _masks(self, masked_request: TextRequest, candidates: list[list[MaskedToken]]) -> list[dict[str, Any]]:
        """Return the candidates of each mask, with the text in which they replace it."""
        tokenizer, masks = self.model.tokenizer, []
        for position, tokens in zip(masked_request.positions, candidates, strict=True):
            rows = []
            for token in tokens:
                ids = [*masked_request.text.ids]
                ids[position] = token.id
                visible_ids = [id for id in ids if id == self.model.mask_token or id not in tokenizer.special_ids]
                text = {"token": token.id, "token_str": tokenizer.decode([token.id], special=True)}
                rows.append(
                    {"score": token.probability, **text, "sequence": tokenizer.decode(visible_ids, special=True)}
                )
            masks.append({"position": position, "tokens": rows})
        return masks

    # -- rerank

    async def _cosines(self, request: Request, params: text_api.RerankRequest) -> tuple[list[float], int]:
        """Return the cosine similarity of the query with each document."""
        prompt = self.model.embedding.prompt
        queries = await self._encode([(prompt + params.query,)])
        self._check_length(queries[0], "query")
        length = params.max_tokens_per_doc
        documents = await self._encode([(prompt + text,) for text in params.texts], length=length, cut=True)
        texts = [*queries, *documents]
        query, *vectors = await self._compute(request, [TextRequest(text, "embedding") for text in texts])
        scores = [float(query @ vector / (query.norm() * vector.norm())) for vector in vectors]
        return scores, _tokens(texts)

    async def _pair_scores(self, request: Request, params: text_api.RerankRequest) -> tuple[list[float], int]:
        """Return the relevance of each document by the classifier: its output, or the probability of its last class."""
        query = (await self._encode([(params.query,)]))[0]
        self._check_length(query, "query")
        length = None
        if params.max_tokens_per_doc is not None:
            length = len(query.ids) + params.max_tokens_per_doc
        pairs = [(params.query, text) for text in params.texts]
        texts = await self._encode(pairs, length=length, cut=True)
        logits = await self._compute(request, [TextRequest(text, "classification") for text in texts])
        return [list(self.model.label_scores(row).values())[-1] for row in logits], _tokens(texts)

    # -- texts

    async def _embedding_input(self, value: str | list[int]) -> EncodedText:
        if isinstance(value, list):
            vocabulary = self.model.model.architecture.vocabulary
            if max(value) >= vocabulary:
                raise invalid(
                    f"Token ids are from 0 to {vocabulary - 1}, got {max(value)}", "input", code="invalid_value"
                )
            text = EncodedText(list(value), [0] * len(value))
        else:
            (text,) = await self._encode([(self.model.embedding.prompt + value,)])
        self._check_length(text)
        return text

    async def _encode(
        self, texts: Sequence[Sequence[str]], *, length: int | None = None, cut: bool = False
    ) -> list[EncodedText]:
        """Encode texts; a text that is not cut keeps one token more than the limit, which `_check_length` refuses."""
        encoder = self.model.encoder(length) if cut else self.model.uncut_encoder
        return await asyncio.to_thread(encoder.encode, texts)

    def _check_length(self, text: EncodedText, param: str = "input") -> None:
        if len(text.ids) > self.model.max_tokens:
            raise too_long(self.model.max_tokens, len(text.ids), param=param, exact=False)

    def _check_content(self, texts: Sequence[str]) -> None:
        """Refuse texts that the content filter of the release refuses."""
        for text in texts:
            if self._refused([Message("user", text)]) is not None:
                self.metrics.add("guard_refusals", label="input")
                raise invalid("The content filter of the model refuses the input", code="content_filter")

    async def _compute(self, request: Request, requests: Sequence[TextRequest]) -> list[Tensor]:
        """Compute texts; the computation is cancelled when the client disconnects."""
        started = time.monotonic()
        try:
            futures = self.scheduler.submit(requests)
        except (QueueFull, SchedulerClosed) as error:
            raise refusal(error, self.metrics) from None
        for text_request in requests:
            self.metrics.add("prompt_tokens", len(text_request.text.ids))
            self.metrics.observe("request_prompt_tokens", len(text_request.text.ids))
        results = asyncio.gather(*map(asyncio.wrap_future, futures))
        watch = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({results, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not results.done():
                for future in futures:
                    future.cancel()
                self.metrics.add("requests_cancelled", len(requests))
                raise ClientLeft
            values = results.result()
        except SchedulerClosed:
            raise unavailable("The server is shutting down", code="draining") from None
        except ModelError as error:
            raise internal(f"The result could not be computed ({error})") from None
        finally:
            watch.cancel()
            if not results.done():
                results.cancel()
        self.metrics.add("request_finished", len(requests), label="stop")
        self.metrics.observe("e2e_request_latency_seconds", time.monotonic() - started)
        return values


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _tokens(texts: Sequence[EncodedText]) -> int:
    return sum(len(text.ids) for text in texts)


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def check_dimensions(dimensions: int | None, width: int) -> None:
    """Refuse more dimensions than an embedding has."""
    if dimensions is not None and dimensions > width:
        message = f"`dimensions` is at most {width}, the length of the model's embeddings, got {dimensions}"
        raise invalid(message, "dimensions", code="invalid_value")


def embedding_response(params: api.EmbeddingRequest, embeddings: Sequence[Sequence[float]], *, tokens: int) -> Response:
    """Return the response of the OpenAI API with embeddings in the format of the request."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": api.base64_floats(embedding) if params.encoding_format == "base64" else list(embedding),
        }
        for index, embedding in enumerate(embeddings)
    ]
    response = {"object": "list", "data": data, "model": params.model}
    return json_response({**response, "usage": _usage(tokens)})
