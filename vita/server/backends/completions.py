"""The clients of programs with the route `/v1/completions` of the OpenAI API, which read and return token ids.

vLLM states the ids of its tokens. Another endpoint states their texts or bytes, from which the ids are found with the
tokenizer of the release.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool

from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.request import TokenScore
from vita.server.backends.completion_events import (
    CompletionChoice,
    EmbeddingResponse,
    Logprobs,
    TokenCandidate,
    TokenEntry,
    single_choice,
)
from vita.server.backends.engine_client import (
    AnswerRequest,
    EngineClient,
    EngineEnd,
    EngineFinish,
    EngineMisconfigured,
    EngineRefusal,
    EngineToken,
    EngineUnavailable,
    reading_response,
)
from vita.server.backends.program_grammars import single_schema
from vita.spine.errors import ModelError

# V tokens of the model

PROBE_STATUSES = (200, 404, 405, 429, 501)
"""Statuses of GET /models of an endpoint that responds: it may not have the route, or limit its requests."""
_FINISH_REASONS: Mapping[str, EngineFinish] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop",
    "length": "length", "content_filter": "content_filter",
}  # fmt: skip
"""`finish_reason` of an endpoint -> the end of the answer; some endpoints name the token or the text that ends it."""
_ID_PREFIX = "token_id:"
_BYTES_PREFIX = "bytes:"


class CompletionsClient(EngineClient):
    """Sends requests to an OpenAI-compatible endpoint."""

    embeds = True
    unsupported: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("top_k", "min_p", "repetition_penalty"), "the OpenAI API has no such field"
    )

    def __init__(
        self,
        base_url: str,
        tokenizer: Tokenizer,
        *,
        model: str,
        secret: str = "",
        read_seconds: float | None = None,
        socket: str | None = None,
    ) -> None:
        """`base_url` ends with the part before `/completions`."""
        super().__init__(base_url, secret=secret, read_seconds=read_seconds, socket=socket)
        self._tokenizer, self.model = tokenizer, model

    @property
    def version(self) -> str:
        return ""

    async def probe(self) -> None:
        response = await self.http.get("models", timeout=10.0)
        if response.status_code not in PROBE_STATUSES:
            raise EngineUnavailable(f"GET {response.url.path} has status {response.status_code}")

    async def embed(self, prompt: Sequence[int]) -> Sequence[float]:
        try:
            value = await self.post("embeddings", {"model": self.model, "input": list(prompt)})
        except EngineMisconfigured as error:
            if error.status in (404, 405):
                raise EngineRefusal("backend", f"the endpoint computes no embeddings: status {error.status}") from None
            raise
        with reading_response():
            (row,) = EmbeddingResponse.model_validate(value).data
        numbers = row.embedding
        length = math.hypot(*numbers)
        return [number / length for number in numbers] if length else numbers

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[EngineToken | EngineEnd]:
        async with self.events("completions", self._body(request)) as events, aclosing(events):  # type: ignore[type-var]
            async for event in events:
                with reading_response():
                    parts = self._parts(event, top=request.top)
                for part in parts:
                    yield part
                    if isinstance(part, EngineEnd):
                        return
        raise ModelError("backend", "the program sends a stream that ends without a `finish_reason`")

    def _parts(self, event: Mapping[str, Any], *, top: int) -> list[EngineToken | EngineEnd]:
        """Return the tokens of an event, and the end if the event states it."""
        parts: list[EngineToken | EngineEnd] = []
        if (choice := single_choice(event)) is None:
            return parts
        if choice.text or choice.logprobs:
            parts += [EngineToken(score) for score in self._scores(choice, top=top)]
        if reason := choice.finish_reason:
            if reason not in _FINISH_REASONS:
                raise ModelError("backend", f"the program ends the answer with the unknown reason {reason[:80]!r}")
            parts.append(EngineEnd(_FINISH_REASONS[reason]))
        return parts

    def _body(self, request: AnswerRequest) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(request.prompt),
            "max_tokens": request.limit,
            "stream": True,
            "logprobs": max(1, request.top),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed % 2**63,
        }
        penalties = {"presence_penalty": request.presence, "frequency_penalty": request.frequency}
        body |= {name: value for name, value in penalties.items() if value}
        if request.biases:
            body["logit_bias"] = {str(token): bias for token, bias in request.biases.items()}
        return body

    def _scores(self, choice: CompletionChoice, *, top: int) -> list[TokenScore]:
        """Return the tokens of an event; the two formats are those of OpenAI and of llama.cpp."""
        lists = choice.logprobs or Logprobs()
        if lists.content:
            return [self._score(entry, top) for entry in lists.content]
        tokens = lists.tokens
        if not tokens:
            raise ModelError("backend", "the endpoint states no tokens with log-probabilities for a text")
        logprobs, most_likely = lists.token_logprobs or [None] * len(tokens), lists.top_logprobs or [None] * len(tokens)
        scores = []
        for token, logprob, row in zip(tokens, logprobs, most_likely, strict=True):
            candidates = sorted((row or {}).items(), key=lambda item: -_number(item[1]))
            pairs = tuple((self._id(name), _number(value)) for name, value in candidates)
            scores.append(TokenScore(self._id(token), _number(logprob), pairs[:top]))
        return scores

    def _score(self, entry: TokenEntry, top: int) -> TokenScore:
        pairs = tuple((self._entry_id(row), _number(row.logprob)) for row in entry.top_logprobs or ())
        return TokenScore(self._entry_id(entry), _number(entry.logprob), pairs[:top])

    def _entry_id(self, entry: TokenCandidate) -> int:
        if entry.id is not None:
            return entry.id
        if entry.bytes:
            return self._id_of_bytes(bytes(entry.bytes))
        return self._id(entry.token or "")

    def _id(self, token: str) -> int:
        """Return the id of a token as an endpoint writes it."""
        if token.startswith(_ID_PREFIX) and token.removeprefix(_ID_PREFIX).isdigit():
            return int(token.removeprefix(_ID_PREFIX))
        if (special := self._tokenizer.specials.get(token)) is not None:
            return special
        if token.startswith(_BYTES_PREFIX):
            pairs = re.findall(r"\\x([0-9a-fA-F]{2})", token)
            return self._id_of_bytes(bytes(int(pair, 16) for pair in pairs))
        return self._id_of_bytes(token.encode())

    def _id_of_bytes(self, data: bytes) -> int:
        if (token := self._ids.get(data)) is None:
            problem = f"the endpoint returns the token {data!r}, which the tokenizer of the release does not have"
            raise ModelError("backend", problem)
        return token

    @cached_property
    def _ids(self) -> Mapping[bytes, int]:
        tokenizer = self._tokenizer
        pairs = ((tokenizer.token_bytes(token), token) for token in reversed(range(tokenizer.vocabulary)))
        return {data: token for data, token in pairs if data}


class VllmClient(CompletionsClient):
    """Sends requests to vLLM, with fields that other endpoints do not have."""

    unsupported: ClassVar[Mapping[str, str]] = {}
    follows_grammars, embeds = True, False
    program_version = ""

    @property
    def version(self) -> str:
        return self.program_version

    def reads_grammar(self, grammar: str) -> bool:
        return single_schema(grammar) is not None

    async def next_token(self, request: AnswerRequest, *, allowed: Bool[np.ndarray, "V"]) -> EngineToken:
        limits = {"allowed_token_ids": np.flatnonzero(allowed).tolist(), "max_tokens": 1, "stream": False}
        value = await self.post("completions", self._body(request) | limits)
        with reading_response():
            choice = single_choice(value)
            (score,) = self._scores(choice or CompletionChoice(), top=request.top)
        return EngineToken(score)

    async def probe(self) -> None:
        response = await self.http.get(str(self.http.base_url).rstrip("/").removesuffix("/v1") + "/health")
        if response.status_code != 200:
            raise EngineUnavailable(f"vLLM reports status {response.status_code}")

    def _body(self, request: AnswerRequest) -> dict[str, Any]:
        sampling = request.sampling
        schema = single_schema(request.grammar) if request.grammar else None
        outputs = {"json": schema, "disable_any_whitespace": True}
        body = super()._body(request) | ({} if schema is None else {"structured_outputs": outputs})
        return body | {
            "top_k": sampling.top_k,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stop_token_ids": sorted(self._tokenizer.stops),
        }


def _number(value: float | None) -> float:
    return math.nan if value is None else value
