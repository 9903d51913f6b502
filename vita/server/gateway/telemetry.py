"""Metrics of the gateway for Prometheus, merged with the metrics of the replicas.

The histogram buckets are those of other language model servers, so that dashboards are comparable.
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
    """The metrics of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Finished requests.", "route", "version", "status")
        self.rejected = self._counter("rejected", "Requests refused before they reached a replica.", "reason")
        self.retries = self._counter("retries", "Requests sent to another replica.", "reason")
        self.resumed = self._counter("resumed", "Streams that continued on another replica.")
        self.lost = self._counter("lost", "Accepted requests that failed.", "reason")
        self.cancelled = self._counter("cancelled", "Requests whose client disconnected.")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens.", "version")
        self.completion_tokens = self._counter("completion_tokens", "Completion tokens.", "version")
        self.replica_seconds = self._counter("replica_seconds", "Time of replicas, ready or not.", "version")
        self.cost = self._counter("cost", "Price of the time of replicas.", "version")
        self.refusals = self._counter("refusals", "Completions that refuse the request.", "version")
        self.feedback = self._counter("feedback", "Feedback stored.", "version", "kind", "value")
        self.feedback_replaced = self._counter(
            "feedback_replaced", "Feedback that later feedback of the same key replaced.", "version", "kind"
        )
        self.log_dropped = self._gauge("log_dropped", "Rows of the request log that were lost.")
        self.not_logged = self._counter("not_logged", "Requests that no log entry may leave a region for.")
        self.ledger_errors = self._counter("ledger_errors", "Failed reads of the ledger.")
        self.drift = {
            name: self._gauge(name, about, "version")
            for name, about in {
                "prompt_drift": "Distance of the embeddings of prompts from the reference.",
                "logprob_shift": "Shift of the log-probability of prompts, in nats per token.",
                "drift_p_value": "P-value of all checks for drift together.",
            }.items()
        }
        self.in_flight = self._gauge("in_flight", "Requests in flight.")
        self.share = self._gauge("share", "Fraction of the traffic.", "version")
        self.replica_up = self._gauge("replica_up", "Whether the replica is ready.", "version", "replica")
        self.replica_in_flight = self._gauge(
            "replica_in_flight", "Requests in flight at the replica.", "version", "replica"
        )
        self.ttft = self._histogram("time_to_first_token_seconds", "Time to the first event of a stream.", TTFT)
        self.latency = self._histogram("request_seconds", "Time to the complete response.", LATENCY)

    def render(self, replicas: Mapping[str, str]) -> bytes:
        """Render the metrics of the gateway and of the replicas, which get the label `replica`."""
        return generate_latest(self.registry) + merged(replicas)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"vita_gateway_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"vita_gateway_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vita_gateway_{name}", about, ("version",), buckets=buckets, registry=self.registry)


def merged(replicas: Mapping[str, str]) -> bytes:
    """Merge several expositions: one family each, with the label `replica` on its samples."""
    families: dict[str, Metric] = {}
    for replica, text in replicas.items():
        for family in _families(text):
            joined = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                joined.add_sample(sample.name, labels, sample.value, sample.timestamp)
    return generate_latest(_FixedRegistry(families.values()))


def _families(text: str) -> Iterable[Metric]:
    """Parse an exposition; an invalid one has no families."""
    try:
        return list(text_string_to_metric_families(text))
    except ValueError:
        return []


class _FixedRegistry(CollectorRegistry):
    """A registry with a fixed list of families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = list(families)

    def collect(self) -> Any:
        return iter(self._families)
