"""The client of the server of llama.cpp: its native route `/completion`, which reads and returns token ids.

llama.cpp streams no event for a token that ends within a character. The next event contains the text of both. The ids
of such tokens are found again from their bytes, and their log-probabilities by a request of their own where the client
needs them. Bytes that are not UTF-8 are lost: such a token has no log-probability (NaN).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
from jaxtyping import Bool

from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.request import TokenScore
from vita.infer.sampling import Sampling
from vita.server.backends.engine_client import (
    AnswerRequest,
    EngineClient,
    EngineEnd,
    EngineToken,
    EngineUnavailable,
    PromptTooLong,
    reading_response,
)
from vita.server.backends.program_grammars import single_lark

# V tokens of the model

SAMPLERS = ("penalties", "temperature", "min_p", "top_k", "top_p")
"""The samplers of llama.cpp in the order of Vita."""
MOST_EMBEDDED_TOKENS = 512
"""Tokens of one physical batch of llama.cpp, in which it computes the mean of a text."""
MAX_CANDIDATES = 4096
"""Maximum number of attempts to find the tokens of a text."""


class LlamaCppClient(EngineClient):
    """Sends requests to the server of llama.cpp."""

    follows_grammars = embeds = penalizes_prompt = True
    scored_candidates = 1000

    def __init__(self, base_url: str, tokenizer: Tokenizer, *, secret: str = "", reads_lark: bool = False) -> None:
        """`reads_lark` is True for a llama.cpp with llguidance, which reads the grammars of Vita."""
        super().__init__(base_url, secret=secret)
        self._tokens, self._reads_lark = TokensOfText(tokenizer), reads_lark
        self._embedding_lock = asyncio.Lock()

    @property
    def version(self) -> str:
        try:
            return package_version("xllamacpp")
        except PackageNotFoundError:
            return ""

    async def next_scores(self, prompt: Sequence[int], *, top: int) -> Mapping[int, float]:
        """Return the log-probabilities of the most likely next tokens of a prompt.

        A bias selects the token that ends a text, because llama.cpp reports no position whose token ends within a
        character. The reported log-probabilities are those without the bias.
        """
        end = self._tokens.end
        request = AnswerRequest(prompt, Sampling(temperature=0), limit=1, top=top, biases={end: 1e6})
        async with aclosing(self.answer(request)) as tokens:
            async for token in tokens:
                if isinstance(token, EngineToken):
                    return dict(token.score.top)
                break
        return {}

    async def next_token(self, request: AnswerRequest, *, allowed: Bool[np.ndarray, "V"]) -> EngineToken:
        bans = [[int(token), False] for token in np.flatnonzero(~allowed)]
        biases = [[token, bias] for token, bias in (request.biases or {}).items() if allowed[token]]
        limits = {"logit_bias": [*bans, *biases], "n_predict": 1, "stream": False}
        value = await self.post("/completion", self._body(request) | limits)
        with reading_response():
            (token,) = value["tokens"]
            (entry,) = value.get("completion_probabilities") or [{}]
            score = EngineToken(TokenScore(int(token), _logprob(entry), _top(entry, request.top)))
        return await self._scored(request, (), score)

    async def embed(self, prompt: Sequence[int]) -> Sequence[float]:
        if len(prompt) > MOST_EMBEDDED_TOKENS:
            problem = f"llama.cpp computes embeddings of at most {MOST_EMBEDDED_TOKENS} tokens, not of {len(prompt)}"
            raise PromptTooLong("backend", problem)
        # llama.cpp may split the texts of a batch into parts of equal length, and then returns the mean of a part.
        async with self._embedding_lock:
            rows = await self.post("/embedding", {"content": list(prompt), "cache_prompt": False})
        with reading_response():
            ((value,),) = [row["embedding"] for row in rows]
            return [float(number) for number in value]

    async def probe(self) -> None:
        response = await self.http.get("/health")
        if response.status_code != 200:
            raise EngineUnavailable(f"llama.cpp reports status {response.status_code}")

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[EngineToken | EngineEnd]:
        ids: list[int] = []
        async with self.events("/completion", self._body(request)) as events, aclosing(events):  # type: ignore[type-var]
            async for event in events:
                with reading_response():
                    missing = int(event.get("tokens_predicted") or 0) - len(ids) - (not event.get("stop"))
                    tokens = self._event_tokens(event, missing=missing, top=request.top)
                for token in tokens:
                    yield await self._scored(request, ids, token)
                    ids.append(token.score.id)
                if event.get("stop"):
                    yield EngineEnd("length" if event.get("stop_type") == "limit" else "stop")
                    return

    def reads_grammar(self, grammar: str) -> bool:
        return self._reads_lark and single_lark(grammar) is not None

    def _body(self, request: AnswerRequest) -> dict[str, Any]:
        lark = single_lark(request.grammar) if request.grammar and self._reads_lark else None
        return _body(request) | ({} if lark is None else {"grammar": lark})

    def _event_tokens(self, event: Mapping[str, Any], *, missing: int, top: int) -> list[EngineToken]:
        """Return the token of an event, after those for which there was no event; the last event has no token."""
        if event.get("stop"):
            return [self._tokens.part_of_character] * missing
        (entry,) = event.get("completion_probabilities") or [{"id": event["tokens"][0]}]
        score = TokenScore(int(entry["id"]), _logprob(entry), _top(entry, top))
        if missing <= 0:
            return [EngineToken(score)]
        data = str(event.get("content") or "").encode()
        ids = self._tokens.find(data.removesuffix(bytes(entry.get("bytes") or b"")), missing)
        if ids is None:
            return [*[self._tokens.part_of_character] * missing, EngineToken(score, data)]
        return [*(EngineToken(TokenScore(token, math.nan)) for token in ids), EngineToken(score)]

    async def _scored(self, request: AnswerRequest, ids: Sequence[int], token: EngineToken) -> EngineToken:
        """Return a token with its log-probability, if the request needs it and its event did not state it."""
        if not request.scored or token.data is not None or not math.isnan(token.score.logprob):
            return token
        scores = await self.next_scores([*request.prompt, *ids], top=max(self.scored_candidates, request.top))
        top = tuple(scores.items())[: request.top]
        return EngineToken(TokenScore(token.score.id, scores.get(token.score.id, math.nan), top))


class TokensOfText:
    """Finds tokens that have the bytes of a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return self._tokenizer.end_of_turn

    @cached_property
    def _ids(self) -> Mapping[bytes, int]:
        tokenizer = self._tokenizer
        pairs = ((tokenizer.token_bytes(token), token) for token in reversed(range(tokenizer.vocabulary)))
        return {data: token for data, token in pairs if data and token not in tokenizer.special_ids}

    def find(self, data: bytes, count: int) -> Sequence[int] | None:
        """Return `count` tokens that together have these bytes; None if there are none."""
        attempts = iter(range(MAX_CANDIDATES))

        def search(rest: bytes, count: int) -> list[int] | None:
            if count == 1 or next(attempts, None) is None:
                return [self._ids[rest]] if rest in self._ids and count == 1 else None
            for end in range(1, len(rest)):
                if (first := self._ids.get(rest[:end])) is not None and (others := search(rest[end:], count - 1)):
                    return [first, *others]
            return None

        return search(data, count)

    @cached_property
    def part_of_character(self) -> EngineToken:
        """The token that stands for one whose bytes are not known, because they are not valid UTF-8."""
        starts = (self._ids.get(bytes([byte])) for byte in range(0xC2, 0xF5))
        token = next((token for token in starts if token is not None), self._tokenizer.document)
        return EngineToken(TokenScore(token, math.nan), b"")


def _body(request: AnswerRequest) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "prompt": list(request.prompt),
        "n_predict": request.limit,
        "stream": True,
        "return_tokens": True,
        "cache_prompt": True,
        "n_probs": max(1, request.top),
        "samplers": list(SAMPLERS),
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": request.min_p,
        "seed": sampling.seed % 2**32 if sampling.seed % 2**32 != 2**32 - 1 else 0,  # the largest one means random
        "repeat_penalty": request.repetition,
        "presence_penalty": request.presence,
        "frequency_penalty": request.frequency,
        "repeat_last_n": len(request.prompt) + request.limit,
        "logit_bias": [[token, bias] for token, bias in (request.biases or {}).items()],
    }


def _logprob(entry: Mapping[str, Any]) -> float:
    value = entry.get("logprob")
    return float(value) if isinstance(value, (int, float)) else math.nan


def _top(entry: Mapping[str, Any], count: int) -> tuple[tuple[int, float], ...]:
    rows = entry.get("top_logprobs") or ()
    return tuple((int(row["id"]), _logprob(row)) for row in rows)[:count]
