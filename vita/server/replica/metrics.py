"""Metrics of a replica for Prometheus: names, descriptions and buckets in one table.

Descriptions and buckets are those of other language model servers, so that dashboards are comparable. Names start with
`vita_`; they contain no colon, which Prometheus reserves for recording rules. Every metric has the labels `model` and
`version`.
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


class Metric(NamedTuple):
    """A row of the table."""

    kind: type[Counter] | type[Gauge] | type[Histogram]
    about: str
    label: str | None = None
    buckets: tuple[float, ...] = ()


TABLE: dict[str, Metric] = {
    "requests_running": Metric(Gauge, "Sequences being generated."),
    "requests_waiting": Metric(Gauge, "Sequences that wait for a row of the batch."),
    "kv_cache_usage": Metric(Gauge, "Fraction of the KV cache in use, from 0 to 1."),
    "draining": Metric(Gauge, "1 when new requests are refused."),
    "http_requests": Metric(Counter, "Requests by status.", "status"),
    "prompt_tokens": Metric(Counter, "Prompt tokens."),
    "generation_tokens": Metric(Counter, "Generated tokens."),
    "prefix_cache_queries": Metric(Counter, "Prompt tokens that were looked up in the prefix cache."),
    "prefix_cache_hits": Metric(Counter, "Prompt tokens that were in the prefix cache."),
    "draft_tokens": Metric(Counter, "Draft tokens of speculative decoding that were verified."),
    "draft_tokens_accepted": Metric(Counter, "Draft tokens that the model chose, too."),
    "request_finished": Metric(Counter, "Finished sequences, also `cancelled` and `error`.", "finish_reason"),
    "requests_cancelled": Metric(Counter, "Requests whose client disconnected."),
    "admission_rejections": Metric(Counter, "Requests refused before any computation.", "reason"),
    "guard_refusals": Metric(Counter, "Prompts and completions that the content filter refused.", "side"),
    "time_to_first_token_seconds": Metric(Histogram, "Time from arrival to the first token.", buckets=TTFT),
    "inter_token_latency_seconds": Metric(Histogram, "Time between two tokens of a sequence.", buckets=ITL),
    "e2e_request_latency_seconds": Metric(Histogram, "Time from arrival to the last token.", buckets=LATENCY),
    "request_queue_time_seconds": Metric(Histogram, "Time from arrival to the start of prefill.", buckets=LATENCY),
    "request_prompt_tokens": Metric(Histogram, "Length of prompts in tokens.", buckets=TOKENS),
    "request_generation_tokens": Metric(Histogram, "Length of completions in tokens.", buckets=TOKENS),
}  # fmt: skip
"""Name without `vita_` -> definition; Prometheus shows counters with the suffix `_total`."""


class Metrics:
    """The metrics of one replica, in a separate registry."""

    def __init__(self, *, model: str, version: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model": model, "version": version}
        self._figures = {name: self._create(name, row) for name, row in TABLE.items()}

    def add(self, name: str, amount: float = 1, *, label: str | None = None) -> None:
        """Increase a counter."""
        figure = self._of(name, label)
        assert isinstance(figure, Counter)
        figure.inc(amount)

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        figure = self._of(name, None)
        assert isinstance(figure, Histogram)
        figure.observe(max(0.0, value))

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Read the value of a gauge with a function at each export."""
        figure = self._of(name, None)
        assert isinstance(figure, Gauge)
        figure.set_function(read)

    def render(self) -> bytes:
        """Render all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _create(self, name: str, row: Metric) -> Counter | Gauge | Histogram:
        labels = [*self._labels, *([row.label] if row.label else [])]
        if row.kind is Histogram:
            return Histogram(f"vita_{name}", row.about, labels, buckets=row.buckets, registry=self.registry)
        return row.kind(f"vita_{name}", row.about, labels, registry=self.registry)

    def _of(self, name: str, label: str | None) -> Counter | Gauge | Histogram:
        extra = {TABLE[name].label or "": label} if label is not None else {}
        return self._figures[name].labels(**self._labels, **extra)
