"""The table of HTTP routes: the source of the applications and of their OpenAPI documents.

A replica answers `MODEL_ROUTES` and `STATUS_ROUTES`; the gateway forwards the first and answers the second itself. To
add a route to both servers, add its request model to `vita.server.api` and one line here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from vita.server.api import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    RequestBody,
    TokenizeRequest,
)
from vita.server.dialects.message_fields import CountTokensRequest, MessagesRequest
from vita.server.dialects.messages_api import MessagesApi, TokenCounting
from vita.server.dialects.responses_api import ResponsesApi, ResponsesRequest
from vita.server.dialects.translation import Dialect
from vita.server.text_api import ClassifyRequest, FillMaskRequest, RerankRequest

JSON, EVENTS, TEXT, HTML = "application/json", "text/event-stream", "text/plain", "text/html"
ANY_MODEL_SCOPE = ("chat", "completions", "embeddings")
MODEL_ERRORS = (404, 429, 502, 503, 504)
"""Statuses of a route that needs a model, beside those of its body and of its key."""


@dataclass(frozen=True)
class Route:
    """One HTTP route.

        Route("POST", "/v1/items/{id:path}", "Change an item.", request=ItemRequest, scopes=("items",))

    `path` has the form of Starlette, in which `{id:path}` also matches slashes.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    request: type[BaseModel] | None = None
    """The model of the request body; None for a route without a body."""
    upload: bool = False
    """True when the body is a form with a file (multipart/form-data) instead of JSON."""
    batched: bool = False
    """True when the JSON body contains many requests and has the limit of an uploaded file."""
    query: tuple[str, ...] = ()
    """Names of the query parameters."""
    scopes: tuple[str, ...] = ()
    """Scopes of an API key, one of which the gateway requires; with none, any valid key is enough."""
    public: bool = False
    """True for a route that needs neither an API key nor the secret of the replica."""
    generates: bool = False
    """True when the response depends on a seed and can be streamed."""
    media: tuple[str, ...] = (JSON,)
    """Media types of a successful response."""
    success: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()
    """Statuses of errors that are specific to this route."""
    dialect: Dialect | None = None
    """The API of a route whose errors, and whose requests to a model, the gateway translates."""

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it: `/v1/items/{id}`."""
        return re.sub(r"\{(\w+):\w+\}", r"{\1}", self.path)

    @property
    def parameters(self) -> list[str]:
        """Names of the path parameters."""
        return re.findall(r"\{(\w+)\}", self.template)


@dataclass(frozen=True)
class ModelRoute(Route):
    """A route that a replica answers and that the gateway forwards to one."""

    request: type[RequestBody] | None = None
    errors: tuple[int, ...] = MODEL_ERRORS
    target: ModelRoute | None = None
    """The route that a translated request is forwarded to."""


CHAT_COMPLETIONS = ModelRoute(
    "POST", "/v1/chat/completions", "Generate the next message of a dialogue.", request=ChatRequest, scopes=("chat",),
    generates=True, media=(JSON, EVENTS),
)  # fmt: skip
COMPLETIONS = ModelRoute(
    "POST", "/v1/completions", "Continue a text or a sequence of token ids.", request=CompletionRequest,
    scopes=("completions",), generates=True, media=(JSON, EVENTS),
)  # fmt: skip
EMBEDDINGS = ModelRoute(
    "POST", "/v1/embeddings", "Compute the embeddings of texts.", request=EmbeddingRequest, scopes=("embeddings",)
)
RERANK = ModelRoute(
    "POST", "/v1/rerank", "Rank documents by their relevance to a query.", request=RerankRequest, scopes=("embeddings",)
)
RERANK_UNVERSIONED = ModelRoute(
    "POST", "/rerank", "Rank documents by their relevance to a query.", request=RerankRequest, scopes=("embeddings",)
)
CLASSIFY = ModelRoute(
    "POST", "/v1/classify", "Classify texts or pairs of texts.", request=ClassifyRequest, scopes=("embeddings",)
)
FILL_MASK = ModelRoute(
    "POST", "/v1/fill-mask", "Predict the masked tokens of texts.", request=FillMaskRequest, scopes=("embeddings",)
)
TOKENIZE = ModelRoute(
    "POST", "/tokenize", "Encode a text or a dialogue as token ids.", request=TokenizeRequest, scopes=ANY_MODEL_SCOPE
)
DETOKENIZE = ModelRoute(
    "POST", "/detokenize", "Decode token ids to a text.", request=DetokenizeRequest, scopes=ANY_MODEL_SCOPE
)
TOKENIZER_INFO = ModelRoute("GET", "/tokenizer_info", "Describe the tokenizer.", scopes=ANY_MODEL_SCOPE)
RESPONSES = ModelRoute(
    "POST", "/v1/responses", "Generate a response in the Responses API of OpenAI.", request=ResponsesRequest,
    scopes=("chat",), generates=True, media=(JSON, EVENTS), dialect=ResponsesApi(), target=CHAT_COMPLETIONS,
)  # fmt: skip
MESSAGES = ModelRoute(
    "POST", "/v1/messages", "Generate a message in the Messages API of Anthropic.", request=MessagesRequest,
    scopes=("chat",), generates=True, media=(JSON, EVENTS), dialect=MessagesApi(), target=CHAT_COMPLETIONS,
)  # fmt: skip
COUNT_TOKENS = ModelRoute(
    "POST", "/v1/messages/count_tokens", "Count the tokens of a prompt in the Messages API of Anthropic.",
    request=CountTokensRequest, scopes=ANY_MODEL_SCOPE, dialect=TokenCounting(), target=TOKENIZE,
)  # fmt: skip
TRANSLATED_ROUTES = (RESPONSES, MESSAGES, COUNT_TOKENS)
"""Routes of the gateway that it translates to model routes."""
MODEL_ROUTES = (
    *(CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, RERANK_UNVERSIONED, CLASSIFY, FILL_MASK),
    *(TOKENIZE, DETOKENIZE, TOKENIZER_INFO),
)

MODELS = Route("GET", "/v1/models", "List the models.", errors=(503,))
MODEL = Route("GET", "/v1/models/{id:path}", "Describe a model.", errors=(404, 410, 503))
METRICS = Route("GET", "/metrics", "Metrics in the text format of Prometheus.", scopes=("admin",), media=(TEXT,))
HEALTH = Route("GET", "/health", "Report whether the process works.", public=True, errors=(500,))
READY = Route("GET", "/ready", "Report whether requests are accepted.", public=True, errors=(503,))
OPENAPI = Route("GET", "/openapi.json", "The OpenAPI document of this server.", public=True)
STATUS_ROUTES = (MODELS, MODEL, METRICS, HEALTH, READY, OPENAPI)
