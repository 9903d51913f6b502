"""The gateway's own figures for Prometheus, and those of the replicas merged with them, each with its name.

Buckets are those that other servers of language models use, so that dashboards compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

TTFT = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
        640, 2560)  # fmt: skip
LATENCY = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)  # fmt: skip
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Telemetry:
    """Everything that the gateway counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "version", "status")
        self.rejected = self._counter("rejected", "Requests refused before a replica saw them.", "reason")
        self.retries = self._counter("retries", "Requests sent to another replica.", "reason")
        self.resumed = self._counter("resumed", "Streams that went on from another replica.")
        self.lost = self._counter("lost", "Accepted requests that could not be answered.", "reason")
        self.cancelled = self._counter("cancelled", "Requests whose client left.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens asked.", "version")
        self.completion_tokens = self._counter("completion_tokens", "Tokens answered.", "version")
        self.refusals = self._counter("refusals", "Answers that refuse.", "version")
        self.feedback = self._counter("feedback", "Feedback stored.", "version", "kind", "value")
        self.feedback_replaced = self._counter(
            "feedback_replaced", "Feedback that later feedback of the same key took the place of.", "version", "kind"
        )
        self.log_dropped = self._gauge("log_dropped", "Rows of the request log that were lost.")
        self.ledger_errors = self._counter("ledger_errors", "Times the ledger could not be read.")
        self.in_flight = self._gauge("in_flight", "Requests being answered.")
        self.share = self._gauge("share", "Part of the traffic.", "version")
        self.replica_up = self._gauge("replica_up", "Whether the replica is ready.", "version", "replica")
        self.replica_in_flight = self._gauge("replica_in_flight", "Requests at the replica.", "version", "replica")
        self.ttft = self._histogram("time_to_first_token_seconds", "Until the first piece of a stream.", TTFT)
        self.latency = self._histogram("request_seconds", "Until the whole answer.", LATENCY)

    def render(self, replicas: Mapping[str, str]) -> bytes:
        """The gateway's figures, and the texts of the replicas with a label `replica`."""
        return generate_latest(self.registry) + merged(replicas)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"vita_gateway_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"vita_gateway_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vita_gateway_{name}", about, ("version",), buckets=buckets, registry=self.registry)


def merged(replicas: Mapping[str, str]) -> bytes:
    """Several expositions as one: each family once, its samples told apart by the label `replica`."""
    families: dict[str, Metric] = {}
    for replica, text in replicas.items():
        for family in _families(text):
            joined = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                joined.add_sample(sample.name, labels, sample.value, sample.timestamp)
    return generate_latest(_Given(families.values()))


def _families(text: str) -> Iterable[Metric]:
    """The families of a text; a replica that talks nonsense gives none."""
    try:
        return list(text_string_to_metric_families(text))
    except ValueError:
        return []


class _Given(CollectorRegistry):
    """A registry that tells the families it was given."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = list(families)

    def collect(self) -> Any:
        return iter(self._families)
