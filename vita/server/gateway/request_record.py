"""One request's account, from its arrival to its last byte: what is counted of it and what the log keeps."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.server.gateway.continuation import logprob_values
from vita.server.gateway.keys import Key
from vita.server.gateway.proxy import Ask
from vita.server.gateway.routing import Version
from vita.server.gateway.telemetry import Telemetry

_NOT_KEPT = ("model", "stream", "stream_options", "user")


@dataclass
class Exchange:
    """The account of a request; `close` writes it, once."""

    service: str
    request_id: str
    route: str
    telemetry: Telemetry
    key: Key | None = None
    consent: bool = False
    ask: Ask | None = None
    addressed: Version | None = None
    """The version that the request is counted for when it reaches no replica."""
    bytes_held: int = 0
    entered: bool = False
    texts: list[str] = field(default_factory=list)
    finishes: list[str | None] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    logprob: float | None = None
    response_id: str | None = None
    ttft: float | None = None
    began: float = field(default_factory=time.monotonic)
    at: float = field(default_factory=time.time)
    closed: bool = False

    @property
    def version(self) -> str:
        return self.ask.version.id if self.ask else "none"

    def first_byte(self) -> None:
        if self.ttft is None:
            self.ttft = time.monotonic() - self.began

    def read_whole(self, content: bytes) -> None:
        """Take texts, usage and log-probabilities out of a whole answer."""
        try:
            told = json.loads(content)
        except ValueError:
            return
        if not isinstance(told, dict):
            return
        self.response_id = told.get("id")
        self.usage = told.get("usage") or {}
        choices = told.get("choices") or []
        self.texts = [choice.get("text") or (choice.get("message") or {}).get("content") or "" for choice in choices]
        self.finishes = [choice.get("finish_reason") for choice in choices]
        values = [value for choice in choices for value in logprob_values(choice) if value is not None]
        self.logprob = sum(values) / len(values) if values else None

    def read_stream(self) -> None:
        """Take the same out of a stream that has ended."""
        assert self.ask is not None
        told = self.ask.continuation
        self.response_id, self.usage = told.response_id, told.usage or {}
        self.texts, self.finishes = told.texts, told.finishes
        self.logprob = told.logprob_sum / told.logprob_count if told.logprob_count else None

    def row(self, status: int, patterns: Sequence[re.Pattern[str]]) -> dict[str, Any]:
        """Count the request, and give what the log may keep of it."""
        seconds = time.monotonic() - self.began
        refused = self._refused(patterns) if self.texts else None
        self._count(status, seconds, refused)
        answering = self.ask.version if self.ask else self.addressed
        body = (self.ask.body if self.ask else None) or {}
        asked = {name: value for name, value in body.items() if name not in _NOT_KEPT}
        figures = {
            "seconds": round(seconds, 6),
            "ttft": None if self.ttft is None else round(self.ttft, 6),
            "prompt_tokens": self.usage.get("prompt_tokens"),
            "completion_tokens": self.usage.get("completion_tokens"),
            "finish": self.finishes,
            "refused": refused,
            "logprob": self.logprob,
            "stream": bool(body.get("stream")),
            "replica": self.ask.backend if self.ask else None,
            "deaths": self.ask.deaths if self.ask else 0,
        }
        return {
            "request": self.request_id,
            "response": self.response_id,
            "service": self.service,
            "version": answering.id if answering else "none",
            "model": answering.model if answering else "",
            "release": answering.release if answering else "",
            "key": (self.key.hint or None) if self.key else None,
            "route": self.route,
            "status": status,
            "asked": asked,
            "answered": {"choices": self.texts} if self.texts else {},
            "figures": figures,
            "consent": self.consent,
            "at": self.at,
        }

    def _refused(self, patterns: Sequence[re.Pattern[str]]) -> bool:
        filtered = any(finish == "content_filter" for finish in self.finishes)
        return filtered or any(pattern.search(text[:1000]) for pattern in patterns for text in self.texts)

    def _count(self, status: int, seconds: float, refused: bool | None) -> None:
        counts, version = self.telemetry, self.version
        counts.requests.labels(self.route, version, str(status)).inc()
        if status != 200:
            return
        counts.latency.labels(version).observe(seconds)
        if self.ttft is not None:
            counts.ttft.labels(version).observe(self.ttft)
        counts.prompt_tokens.labels(version).inc(self.usage.get("prompt_tokens") or 0)
        counts.completion_tokens.labels(version).inc(self.usage.get("completion_tokens") or 0)
        if refused:
            counts.refusals.labels(version).inc()
