"""The record of one request, from its arrival to its last byte: its metrics and its row of the request log.

The gateway's request handler owns the record and alone changes it, by calling the methods below in this order:

    record.identify(key); record.admit(consent=True); record.forward(proxied_request)
    record.begin_stream() or record.read_response(content)
    row = record.close(200, refusal_patterns)
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.server.gateway.continuation import logprob_values
from vita.server.gateway.keys import Key
from vita.server.gateway.proxy import ProxiedRequest
from vita.server.gateway.routing import ServedVersion
from vita.server.gateway.telemetry import Telemetry
from vita.server.tracing import NO_SPAN, TraceSpan

_NOT_KEPT = ("model", "stream", "stream_options", "user")


@dataclass
class RequestRecord:
    """Collects the facts about a request; `close` counts them and returns the row of the log, once."""

    service: str
    request_id: str
    route: str
    telemetry: Telemetry
    site: str = ""
    """Name of the site."""
    addressed: ServedVersion | None = None
    """The version that the request counts for when it reaches no replica."""
    headers: dict[str, str] = field(default_factory=dict, init=False)
    """Further headers of the response."""
    regions: frozenset[str] | None = field(default=None, init=False)
    """The regions in which the request may be processed and stored; None without a limit."""
    span: TraceSpan = field(default=NO_SPAN, init=False)
    """The span of the request in its trace."""
    proxied_request: ProxiedRequest | None = field(default=None, init=False)
    closed: bool = field(default=False, init=False)
    _key: Key | None = field(default=None, init=False)
    _consent: bool = field(default=False, init=False)
    _streamed: bool = field(default=False, init=False)
    _texts: list[str] = field(default_factory=list, init=False)
    _finish_reasons: list[str | None] = field(default_factory=list, init=False)
    _usage: dict[str, Any] = field(default_factory=dict, init=False)
    _logprob: float | None = field(default=None, init=False)
    _response_id: str | None = field(default=None, init=False)
    _repeat_of: str | None = field(default=None, init=False)
    _ttft: float | None = field(default=None, init=False)
    _start: float = field(default_factory=time.monotonic, init=False)
    _time: float = field(default_factory=time.time, init=False)

    @property
    def version(self) -> str:
        """The id of the version that responds; "none" for a request that is not forwarded."""
        return self.proxied_request.version.id if self.proxied_request else "none"

    def identify(self, key: Key) -> None:
        """Note whose request it is."""
        self._key = key

    def limit(self, regions: frozenset[str] | None) -> None:
        """Note the regions in which the request may be processed."""
        self.regions = regions

    def repeat(self, request_id: str) -> None:
        """Note the first request with the same idempotency key."""
        self._repeat_of = request_id

    def admit(self, *, consent: bool) -> None:
        """Note that the request is admitted, and whether its content may be stored."""
        self._consent = consent

    def address(self, version: ServedVersion | None) -> None:
        """Note the version that the request names."""
        self.addressed = version

    def forward(self, proxied_request: ProxiedRequest) -> None:
        """Note what is forwarded to a replica."""
        self.proxied_request = proxied_request

    def name_response(self, response_id: str | None) -> None:
        """Note the id of the response in the API of the client, if it is not that of the replica's response."""
        self._response_id = response_id

    def begin_stream(self) -> None:
        """Note the time of the first event of a streamed response."""
        self._streamed, self._ttft = True, time.monotonic() - self._start

    def read_response(self, content: bytes) -> None:
        """Read texts, usage and log-probabilities from a response that is not streamed."""
        try:
            response = json.loads(content)
        except ValueError:
            return
        if not isinstance(response, dict):
            return
        self._response_id = self._response_id or response.get("id")
        self._usage = response.get("usage") or {}
        choices = response.get("choices") or []
        self._texts = [choice.get("text") or (choice.get("message") or {}).get("content") or "" for choice in choices]
        self._finish_reasons = [choice.get("finish_reason") for choice in choices]
        values = [value for choice in choices for value in logprob_values(choice) if value is not None]
        self._logprob = sum(values) / len(values) if values else None

    def close(self, status: int, refusal_patterns: Sequence[re.Pattern[str]]) -> dict[str, Any] | None:
        """Count the request and return its row of the log; None when the record is closed already."""
        if self.closed:
            return None
        self.closed = True
        if self._streamed:
            self._read_stream()
        return self._row(status, refusal_patterns)

    def _read_stream(self) -> None:
        """Read texts, usage and log-probabilities from the events that were sent."""
        assert self.proxied_request is not None
        stream = self.proxied_request.continuation
        self._response_id, self._usage = self._response_id or stream.response_id, stream.usage or {}
        self._texts, self._finish_reasons = stream.texts, stream.finishes
        self._logprob = stream.logprob_sum / stream.logprob_count if stream.logprob_count else None

    def _row(self, status: int, patterns: Sequence[re.Pattern[str]]) -> dict[str, Any]:
        seconds = time.monotonic() - self._start
        refused = self._refused(patterns) if self._texts else None
        self._count(status, seconds, refused)
        answering = self.proxied_request.version if self.proxied_request else self.addressed
        body = (self.proxied_request.body if self.proxied_request else None) or {}
        parameters = {name: value for name, value in body.items() if name not in _NOT_KEPT}
        figures = {
            "seconds": round(seconds, 6),
            "ttft": None if self._ttft is None else round(self._ttft, 6),
            "prompt_tokens": self._usage.get("prompt_tokens"),
            "completion_tokens": self._usage.get("completion_tokens"),
            "finish": self._finish_reasons,
            "refused": refused,
            "logprob": self._logprob,
            "stream": bool(body.get("stream")),
            "replica": self.proxied_request.backend if self.proxied_request else None,
            "backend": self.proxied_request.version.backend if self.proxied_request else None,
            "deaths": self.proxied_request.deaths if self.proxied_request else 0,
        }
        if self.site:
            figures["site"] = self.site
        if self.regions is not None:
            figures["regions"] = sorted(self.regions)
        if self._repeat_of is not None:
            figures["repeat_of"] = self._repeat_of
        return {
            "request": self.request_id,
            "response": self._response_id,
            "service": self.service,
            "version": answering.id if answering else "none",
            "model": answering.model if answering else "",
            "release": answering.release if answering else "",
            "key": (self._key.hint or None) if self._key else None,
            "route": self.route,
            "status": status,
            "asked": parameters,
            "answered": {"choices": self._texts} if self._texts else {},
            "figures": figures,
            "consent": self._consent,
            "at": self._time,
        }

    def _refused(self, patterns: Sequence[re.Pattern[str]]) -> bool:
        filtered = any(finish == "content_filter" for finish in self._finish_reasons)
        return filtered or any(pattern.search(text[:1000]) for pattern in patterns for text in self._texts)

    def _count(self, status: int, seconds: float, refused: bool | None) -> None:
        counts, version = self.telemetry, self.version
        counts.requests.labels(self.route, version, str(status)).inc()
        if status != 200:
            return
        counts.latency.labels(version).observe(seconds)
        if self._ttft is not None:
            counts.ttft.labels(version).observe(self._ttft)
        counts.prompt_tokens.labels(version).inc(self._usage.get("prompt_tokens") or 0)
        counts.completion_tokens.labels(version).inc(self._usage.get("completion_tokens") or 0)
        if refused:
            counts.refusals.labels(version).inc()
