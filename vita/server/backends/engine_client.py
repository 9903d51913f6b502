"""The interface of a program that continues token ids: the requests that it receives and the tokens that it returns."""

from __future__ import annotations

import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import httpx
import numpy as np
import orjson
from jaxtyping import Bool

from vita.infer.request import GenerationRequest, QueueFull, TokenScore
from vita.infer.sampling import Sampling
from vita.spine.errors import ModelError, exception_text

log = logging.getLogger(__name__)

# V tokens of the model

CONNECT_SECONDS = 5.0
DONE = b"[DONE]"
MAX_EVENT_BYTES = 8 * 2**20
OUTAGES = frozenset({408, 502, 503, 504})
"""Statuses of a program, or of a proxy in front of it, that cannot answer now."""
MISCONFIGURATIONS = frozenset({401, 402, 403, 404, 405, 407, 410})
"""Statuses that do not depend on the content of a request, and stay until the settings are changed."""
EngineFinish = Literal["stop", "length", "content_filter"]
_OTHER_FIELDS = (b":", b"event:", b"id:", b"retry:", b"\xef\xbb\xbf")
"""Beginnings of lines of an event stream other than its data: comments, fields and a byte order mark."""


@dataclass(frozen=True)
class AnswerRequest:
    """The request of one answer: the ids of its prompt, its sampling and its limit."""

    prompt: Sequence[int]
    sampling: Sampling
    limit: int
    """Maximum number of tokens."""
    top: int = 0
    """Number of most likely tokens that are reported for each position."""
    scored: bool = False
    """True if the log-probabilities of the tokens are needed."""
    biases: Mapping[int, float] | None = None
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    min_p: float = 0.0
    grammar: str | None = None
    """The grammar of the answer (`vita.infer.grammars`), which the program follows as far as it can."""

    @classmethod
    def of(cls, request: GenerationRequest, sampling: Sampling, *, limit: int) -> AnswerRequest:
        """Return the request of one answer of a generation request."""
        return cls(
            request.prompt, sampling, limit, request.top or 0, request.top is not None, dict(request.biases),
            request.presence, request.frequency, request.repetition, request.min_p,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineToken:
    """One token of an answer."""

    score: TokenScore
    """Its id, and its log-probability: NaN where the program does not state it."""
    data: bytes | None = None
    """The bytes that it adds to the text; None for those of its id."""


@dataclass(frozen=True, slots=True)
class EngineEnd:
    """The end of an answer."""

    finish: EngineFinish
    """`content_filter` if the program withholds the rest of the answer."""


class EngineUnavailable(Exception):
    """The program cannot be reached, or cannot answer now; a later attempt can succeed."""

    def __init__(self, problem: str, *, retry_after: float | None = None) -> None:
        """`retry_after` is the time in seconds that the program asks for, if it does."""
        super().__init__(problem)
        self.retry_after = retry_after


class EngineRefusal(ModelError):
    """The program refuses a request because of its content."""


class EngineMisconfigured(ModelError):
    """The program responds that the address, the model or the API key is wrong; a later attempt cannot succeed."""

    def __init__(self, problem: str, *, status: int) -> None:
        super().__init__("backend", problem, hint="check `url`, `model` and the API key of the backend")
        self.status = status


class PromptTooLong(EngineRefusal):
    """The program cannot read a text of this length."""


class EngineClient(ABC):
    """Sends requests to one program."""

    unsupported: ClassVar[Mapping[str, str]] = {}
    """Field of a request that the program does not support -> the reason."""
    follows_grammars: ClassVar[bool] = False
    """True if the next token can be restricted to a set of tokens (`next_token`)."""
    embeds: ClassVar[bool] = False
    """True if the program computes embeddings (`embed`)."""
    penalizes_prompt: ClassVar[bool] = False
    """True if penalties count the tokens of the prompt also."""
    scored_candidates: ClassVar[int] = 1
    """Number of most likely tokens among which the log-probability of a token that was not returned is searched."""

    def __init__(
        self, base_url: str, *, secret: str = "", read_seconds: float | None = None, socket: str | None = None
    ) -> None:
        """`read_seconds` is the longest time without data in a response; by default the gateway limits it.

        `socket` is the path of the Unix socket of a program that listens on one.
        """
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        timeout = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=4.0)
        self._secret = secret
        transport = httpx.AsyncHTTPTransport(limits=limits, uds=socket, trust_env=False)
        self.http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=timeout, transport=transport, trust_env=False
        )

    @property
    def has_secret(self) -> bool:
        """Return True if requests contain a secret."""
        return bool(self._secret)

    @property
    @abstractmethod
    def version(self) -> str:
        """The version of the program, "" if it is unknown."""

    @abstractmethod
    def answer(self, request: AnswerRequest) -> AsyncGenerator[EngineToken | EngineEnd]:
        """Yield the tokens of an answer, and its end; closing the generator cancels the computation.

        Raises `EngineUnavailable`, `QueueFull`, `EngineMisconfigured`, `EngineRefusal`, or `ModelError` for an answer
        that cannot be used.
        """

    def reads_grammar(self, grammar: str) -> bool:
        """Return True if the program follows a grammar of a request itself."""
        return False

    async def next_scores(self, prompt: Sequence[int], *, top: int) -> Mapping[int, float]:
        """Return the log-probabilities of the most likely next tokens of a prompt; {} if they are not known."""
        request = AnswerRequest(prompt, Sampling(temperature=0), limit=1, top=top)
        async with aclosing(self.answer(request)) as tokens:
            async for token in tokens:
                if isinstance(token, EngineToken) and not math.isnan(token.score.logprob):
                    return {**dict(token.score.top), token.score.id: token.score.logprob}
                return {}
        return {}

    async def next_token(self, request: AnswerRequest, *, allowed: Bool[np.ndarray, "V"]) -> EngineToken:
        """Return one token that is drawn among the allowed tokens."""
        raise NotImplementedError

    async def embed(self, prompt: Sequence[int]) -> Sequence[float]:
        """Return the embedding of a text, of length 1."""
        raise NotImplementedError

    @abstractmethod
    async def probe(self) -> None:
        """Raise `EngineUnavailable` or an `httpx.HTTPError` if the program does not accept requests."""

    async def close(self) -> None:
        await self.http.aclose()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request and return the JSON value of its response."""
        try:
            response = await self.http.post(path, json=body)
        except httpx.HTTPError as error:
            raise EngineUnavailable(exception_text(error)) from None
        if response.status_code != 200:
            raise self.refusal(response)
        try:
            return response.json()
        except ValueError:
            raise ModelError("backend", "the program sends a response that is not JSON") from None

    @asynccontextmanager
    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Send a request and yield the JSON objects of its server-sent events, until `[DONE]` or the end."""
        async with AsyncExitStack() as stack:
            try:
                stream = self.http.stream("POST", path, json=body)
                response = await stack.enter_async_context(stream)
                if response.status_code != 200:
                    await response.aread()
                    raise self.refusal(response)
                yield self._objects(response)
            except httpx.HTTPError as error:
                raise EngineUnavailable(exception_text(error)) from None

    async def _objects(self, response: httpx.Response) -> AsyncGenerator[dict[str, Any]]:
        other_text, count = "", 0
        async with aclosing(_lines(response)) as lines:
            async for line in lines:
                if not line.startswith(b"data:"):
                    if not other_text and line.strip() and not line.startswith(_OTHER_FIELDS):
                        other_text = line[:200].decode(errors="replace").strip()
                    continue
                count, data = count + 1, line[5:].strip()
                if data == DONE:
                    return
                try:
                    value = orjson.loads(data)
                except orjson.JSONDecodeError:
                    raise ModelError("backend", "the program sends an event that is not JSON") from None
                if not isinstance(value, dict):
                    raise ModelError("backend", "the program sends an event that is not a JSON object")
                if value.get("error") is not None:
                    raise ModelError("backend", f"the program reports: {self.without_secret(_message(value))}")
                yield value
        if not count:
            content = f": {self.without_secret(other_text)}" if other_text else ""
            raise ModelError("backend", f"the program sends a response without events{content}")

    def refusal(self, response: httpx.Response) -> Exception:
        """Return the error for a response that is not successful."""
        try:
            message = _message(response.json())
        except ValueError:
            message = response.text[:200]
        status = response.status_code
        content = self.without_secret(message).strip()
        text = f"status {status}" + (f": {content}" if content else "")
        if status == 429:
            return QueueFull("backend", f"the backend has no capacity: {text}")
        if status in OUTAGES:
            wait = response.headers.get("retry-after", "")
            return EngineUnavailable(text, retry_after=float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else None)
        if status in MISCONFIGURATIONS or 300 <= status < 400:
            return EngineMisconfigured(f"the program responds with {text}", status=status)
        if status >= 500 or status < 300:
            return ModelError("backend", f"the program fails with {text}")
        return EngineRefusal("backend", f"the program refuses the request with {text}")

    def without_secret(self, text: str) -> str:
        """Replace the secret of the program in a text."""
        return text.replace(self._secret, "***") if self._secret else text


@contextmanager
def reading_response() -> Iterator[None]:
    """Raise `ModelError` for a response of a program whose fields are missing or have other types than in its API.

    The block only reads values of a response.
    """
    try:
        yield
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        log.warning("a response of the backend cannot be read: %s", " ".join(exception_text(error).split()))
        raise ModelError("backend", "the program sends a response of another form than its API states") from None


def _message(value: Any) -> str:
    """Return the message of an error object of the OpenAI API."""
    error = value.get("error", value) if isinstance(value, dict) else value
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:500]


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes]:
    """Yield the lines of a response; only line feeds end a line, because texts may contain other separators."""
    buffer = b""
    async for part in response.aiter_bytes():
        buffer += part
        *lines, buffer = buffer.split(b"\n")
        if len(buffer) > MAX_EVENT_BYTES:
            raise ModelError("backend", f"the program sends an event of more than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            yield line
    yield buffer
