"""The routes of a service that are passed on to a replica, and what each asks of a key and of a body."""

from __future__ import annotations

from dataclasses import dataclass

from vita.server.api import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    Request,
    TokenizeRequest,
)

ASKING = ("chat", "completions", "embeddings")


@dataclass(frozen=True)
class Door:
    """A route that is passed on to a replica."""

    method: str
    path: str
    scopes: tuple[str, ...]
    request: type[Request] | None
    """The form of its body."""
    generates: bool = False
    """Whether its answer depends on a seed, and may be streamed."""


DOORS = (
    Door("POST", "/v1/chat/completions", ("chat",), ChatRequest, generates=True),
    Door("POST", "/v1/completions", ("completions",), CompletionRequest, generates=True),
    Door("POST", "/v1/embeddings", ("embeddings",), EmbeddingRequest),
    Door("POST", "/tokenize", ASKING, TokenizeRequest),
    Door("POST", "/detokenize", ASKING, DetokenizeRequest),
    Door("GET", "/tokenizer_info", ASKING, None),
)
