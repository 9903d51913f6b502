"""The rewriter that requests rewrites from an OpenAI-compatible endpoint.

    rewriter = EndpointRewriter(Endpoint(url="http://127.0.0.1:8000/v1", model="cat"), key, sampling)
    for candidate, result in rewriter.rewrite(candidates, log): ...

A response with status 408, 409, 429 or 5xx, an error with status 200, and a connection that fails, are tried again; a
refusal of one request is its result; everything else ends the run with an error. Results are written to the log as they
arrive.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator, model_validator

from vita.infer.sampling import Sampling
from vita.rephrasing.answer_text import message_text
from vita.rephrasing.candidates import Candidate
from vita.rephrasing.result_log import ResultLog, RewriteResult
from vita.rephrasing.rewriter import Results
from vita.spine.config import Settings, operational
from vita.spine.endpoints import http_url
from vita.spine.errors import ModelError, exception_text

if TYPE_CHECKING:
    import httpx

_REFUSED = (400, 413, 422)
"""Statuses of a request that the endpoint refuses because of its content."""
_TRANSIENT = (408, 409, 425, 429)
LONGEST_WAIT = 60.0
"""Most seconds between two attempts."""
MOST_REFUSALS = 32
"""Refusals at the beginning of a run, after which the run ends: the settings are wrong."""


class Endpoint(Settings):
    """A running OpenAI-compatible endpoint."""

    url: str
    """Base URL, such as `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    """Name of the model at the endpoint."""
    key_variable: str | None = operational(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that contains the API key."""
    key_file: str | None = operational(None)
    """File that contains the API key."""
    concurrency: int = operational(8, ge=1, le=1024)
    """Number of requests at the same time."""
    retries: int = operational(5, ge=0)
    """Number of further attempts after a failure that may pass."""
    timeout_seconds: float = operational(300.0, gt=0)
    """Longest time of an attempt, in seconds."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return http_url(url)

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key_variable and self.key_file:
            raise ValueError("`key_variable` and `key_file` cannot both be set")
        return self


class EndpointRewriter:
    """Rewrites by requests to an endpoint, `concurrency` at the same time."""

    def __init__(self, endpoint: Endpoint, key: str, sampling: Sampling) -> None:
        self._endpoint, self._key, self._sampling = endpoint, key, sampling
        self._refusals, self._answers = 0, 0
        self.num_requests = 0
        """Requests that were sent, without further attempts."""

    @property
    def model(self) -> dict[str, Any]:
        """Return the address of the endpoint and the name of the model."""
        return {"endpoint": self._endpoint.url, "name": self._endpoint.model}

    def rewrite(self, candidates: Iterator[Candidate], log: ResultLog) -> Results:
        """Yield each candidate with its result, in order; at most `concurrency` requests are ahead of it."""
        window: deque[tuple[Candidate, asyncio.Task[RewriteResult] | None]] = deque()
        with asyncio.Runner() as runner:
            client = runner.run(self._open())
            try:
                while True:
                    while len(window) < self._endpoint.concurrency and (candidate := next(candidates, None)):
                        known = candidate.id in log
                        window.append((candidate, None if known else runner.run(self._start(client, candidate, log))))
                    if not window:
                        return
                    candidate, task = window.popleft()
                    yield candidate, log[candidate.id] if task is None else runner.run(_result(task))
            finally:
                runner.run(_close(client, [task for _, task in window if task is not None]))

    async def _open(self) -> httpx.AsyncClient:
        import httpx

        endpoint = self._endpoint
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
        timeout = httpx.Timeout(endpoint.timeout_seconds, connect=min(30.0, endpoint.timeout_seconds))
        return httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, trust_env=False)

    async def _start(
        self, client: httpx.AsyncClient, candidate: Candidate, log: ResultLog
    ) -> asyncio.Task[RewriteResult]:
        self.num_requests += 1
        return asyncio.create_task(self._request(client, candidate, log))

    async def _request(self, client: httpx.AsyncClient, candidate: Candidate, log: ResultLog) -> RewriteResult:
        response = await self._post(client, self._body(candidate))
        size = len(candidate.passage.encode("utf-8"))
        if response.status_code in _REFUSED:
            result = RewriteResult("", "refused", self._message(response), size)
            self._refusals += 1
            if self._refusals >= MOST_REFUSALS and not self._answers:
                problem = f"refuses the first {self._refusals} requests: {result.detail}"
                raise ModelError(self._where, problem, hint="correct the model or the settings")
        else:
            result = self._result(response, size)
            self._answers += 1
        log.add(candidate.id, result)
        return result

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        """Send a request until it is answered or refused; raise `ModelError` for other failures."""
        import httpx

        problem = ""
        for attempt in range(self._endpoint.retries + 1):
            wait = min(2.0**attempt, LONGEST_WAIT)
            try:
                response = await client.post(f"{self._endpoint.url}/chat/completions", json=body)
            except httpx.HTTPError as error:
                problem = self._without_key(exception_text(error))
            else:
                status = response.status_code
                if status in _REFUSED or (status == 200 and not _is_error(response)):
                    return response
                problem = f"status {status}: {self._message(response)}"
                if status != 200 and status not in _TRANSIENT and status < 500:
                    raise ModelError(self._where, problem, hint="correct `url`, `model` or the key, and run it again")
                wait = _retry_after(response, wait)
            if attempt < self._endpoint.retries:
                await asyncio.sleep(wait)
        attempts = self._endpoint.retries + 1
        hint = "the answers until now are stored: run the same command again"
        raise ModelError(self._where, f"no answer after {attempts} attempts: {problem}", hint=hint)

    def _body(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": candidate.style.prompt(candidate.passage)}],
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
            "seed": candidate.seed,
        }

    def _result(self, response: httpx.Response, size: int) -> RewriteResult:
        try:
            choice = response.json()["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            refusal = message.get("refusal")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise ModelError(self._where, "the response is not an OpenAI chat completion") from None
        if refusal or finish == "content_filter":
            detail = str(refusal or "stopped by the content filter of the endpoint")
            return RewriteResult("", "refused", self._without_key(detail)[:200], size)
        try:
            text = message_text(message)
        except ValueError as error:
            expected = "an answer whose `content` is a text, null, or a list of parts with text"
            raise ModelError(self._where, expected=expected, got=self._without_key(str(error))) from None
        return RewriteResult(text, "length" if finish == "length" else "stop", source_bytes=size)

    def _message(self, response: httpx.Response) -> str:
        """Return the message of an error response, without the key."""
        try:
            value = response.json()
            error = value.get("error", value)
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, AttributeError):
            text = response.text
        return self._without_key(" ".join(text.split()))[:200]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    @property
    def _where(self) -> str:
        return f"endpoint {self._endpoint.url}"


def _is_error(response: httpx.Response) -> bool:
    """Return True for an error with status 200, as some proxies send it."""
    try:
        value = response.json()
    except ValueError:
        return False
    return isinstance(value, dict) and bool(value.get("error")) and not value.get("choices")


def _retry_after(response: httpx.Response, default: float) -> float:
    """Return the seconds that the endpoint asks to wait, at most `LONGEST_WAIT`."""
    try:
        return min(max(0.0, float(response.headers["retry-after"])), LONGEST_WAIT)
    except (KeyError, ValueError):
        return default


async def _result(task: asyncio.Task[RewriteResult]) -> RewriteResult:
    return await task


async def _close(client: httpx.AsyncClient, tasks: list[asyncio.Task[RewriteResult]]) -> None:
    """Cancel the requests that are not needed, and close the connections."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()
