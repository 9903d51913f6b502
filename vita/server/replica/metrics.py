"""What a replica counts for Prometheus: names, meanings and buckets in one table.

Meanings and buckets are those of other servers of language models, so that dashboards compare; the colon in their
names is Prometheus's own sign for recording rules, so ours have `vita_` and an underscore. Every figure bears the
labels `model` and `version`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# fmt: off
TTFT = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
ITL = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
LATENCY = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
# fmt: on
TOKENS = tuple(float(mantissa * 10**power) for power in range(5) for mantissa in (1, 2, 5))
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Figure(NamedTuple):
    """A row of the table."""

    kind: type[Counter] | type[Gauge] | type[Histogram]
    about: str
    label: str | None = None
    buckets: tuple[float, ...] = ()


TABLE: dict[str, Figure] = {
    "requests_running": Figure(Gauge, "Answers that advance."),
    "requests_waiting": Figure(Gauge, "Answers that wait for a row."),
    "kv_cache_usage": Figure(Gauge, "Part of the key-value cache that is taken, from 0 to 1."),
    "draining": Figure(Gauge, "1 when no new requests are taken."),
    "http_requests": Figure(Counter, "Requests by status.", "status"),
    "prompt_tokens": Figure(Counter, "Tokens of prompts that were read."),
    "generation_tokens": Figure(Counter, "Tokens of answers."),
    "request_finished": Figure(Counter, "Answers by their end, or `cancelled` or `error`.", "finish_reason"),
    "requests_cancelled": Figure(Counter, "Requests whose client left."),
    "admission_rejections": Figure(Counter, "Requests refused before any work: requests, tokens, draining.", "reason"),
    "guard_refusals": Figure(Counter, "Requests and answers that the guard refused.", "side"),
    "time_to_first_token_seconds": Figure(Histogram, "From arrival to the first token.", buckets=TTFT),
    "inter_token_latency_seconds": Figure(Histogram, "Between two tokens of an answer.", buckets=ITL),
    "e2e_request_latency_seconds": Figure(Histogram, "From arrival to the last token.", buckets=LATENCY),
    "request_queue_time_seconds": Figure(Histogram, "From arrival until the prompt is read.", buckets=LATENCY),
    "request_prompt_tokens": Figure(Histogram, "Length of prompts.", buckets=TOKENS),
    "request_generation_tokens": Figure(Histogram, "Length of answers.", buckets=TOKENS),
}  # fmt: skip
"""Name without `vita_` -> what it is; counters are shown with `_total`."""


class Metrics:
    """The figures of one replica, in a registry of their own."""

    def __init__(self, *, model: str, version: str) -> None:
        self.registry = CollectorRegistry()
        self._own = {"model": model, "version": version}
        self._figures = {name: self._made(name, row) for name, row in TABLE.items()}

    def add(self, name: str, amount: float = 1, *, label: str | None = None) -> None:
        """Counts on."""
        figure = self._of(name, label)
        assert isinstance(figure, Counter)
        figure.inc(amount)

    def observe(self, name: str, value: float) -> None:
        """One more value of a histogram."""
        figure = self._of(name, None)
        assert isinstance(figure, Histogram)
        figure.observe(max(0.0, value))

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        figure = self._of(name, None)
        assert isinstance(figure, Gauge)
        figure.set_function(read)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def _made(self, name: str, row: Figure) -> Counter | Gauge | Histogram:
        labels = [*self._own, *([row.label] if row.label else [])]
        if row.kind is Histogram:
            return Histogram(f"vita_{name}", row.about, labels, buckets=row.buckets, registry=self.registry)
        return row.kind(f"vita_{name}", row.about, labels, registry=self.registry)

    def _of(self, name: str, label: str | None) -> Counter | Gauge | Histogram:
        extra = {TABLE[name].label or "": label} if label is not None else {}
        return self._figures[name].labels(**self._own, **extra)
