"""The figures of `vita monitor` as PromQL expressions, for Prometheus rules and the Grafana dashboard.

    queries = MetricQueries("cat", routes=("/v1/chat/completions",))
    queries.figures["error_rate"]                # an expression with the labels `job` and `version`

A request that reached no replica has the version `none`. Rates cover `WINDOW`; feedback and cost, which change slowly,
cover `LONG_WINDOW`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vita.monitoring.drift_checks import DRIFT_FIGURES

WINDOW, LONG_WINDOW = "5m", "1h"
_BY = "sum by (job, version)"
_SHED, _ERRORS, _FAILURES = "429|503", "5..", "5.[0-24-9]|50[0-24-9]"


def quoted(text: str) -> str:
    """Return a string literal of PromQL."""
    return json.dumps(text)


@dataclass(frozen=True)
class MetricQueries:
    """The PromQL expressions of one service."""

    service: str
    """Name of the service, which is the name of its scrape job."""
    routes: Sequence[str]
    """Templates of the routes that need a model; only their requests count in rates."""

    @cached_property
    def figures(self) -> dict[str, str]:
        """Figure of `vita monitor` -> expression."""
        requests, answers = self.rate("requests_total", self.route_filter), self.rate("request_seconds_count")
        return {
            "request_rate": requests,
            "error_rate": self._share_of_requests(_ERRORS),
            "failure_rate": self._share_of_requests(_FAILURES),
            "shed_rate": self._share_of_requests(_SHED),
            "ttft_p50": self.quantile("time_to_first_token_seconds", 0.5),
            "ttft_p95": self.quantile("time_to_first_token_seconds", 0.95),
            "latency_p50": self.quantile("request_seconds", 0.5),
            "latency_p95": self.quantile("request_seconds", 0.95),
            "tokens_per_second": f"{self.rate('completion_tokens_total')} / {self.rate('request_seconds_sum')}",
            "length": f"{self.rate('completion_tokens_total')} / {answers}",
            "refusal_rate": f"({self.rate('refusals_total')} or 0 * {answers}) / {answers}",
            "thumbs_up_rate": self._thumbs_up_rate(),
            "flags": self._feedback('kind="flag"'),
            "edits": self._feedback('kind="edit"'),
            "votes_won": self._feedback('kind="vote", value=~"1(\\\\.0)?"'),
            "prompt_tokens": self.increase("prompt_tokens_total"),
            "completion_tokens": self.increase("completion_tokens_total"),
            "cost": self.increase("cost_total"),
            "cost_per_1000_tokens": f"1000 * {self.increase('cost_total')} / {self._tokens}",
            "cost_per_1000_completion_tokens": (
                f"1000 * {self.increase('cost_total')} / ({self.increase('completion_tokens_total')} > 0)"
            ),
            **{name: f"max by (job, version) ({self.metric(name)})" for name in DRIFT_FIGURES},
        }

    @property
    def route_filter(self) -> str:
        """The filter for requests that need a model."""
        return f"route=~{quoted('|'.join(map(re.escape, sorted(self.routes))))}"

    def metric(self, name: str, *filters: str, prefix: str = "vita_gateway_") -> str:
        """Return the selector of a metric of this service."""
        return f"{prefix}{name}{{{', '.join((f'job={quoted(self.service)}', *filters))}}}"

    def rate(self, name: str, *filters: str) -> str:
        """Return the rate per second of a counter of the gateway, per version."""
        return f"{_BY} (rate({self.metric(name, *filters)}[{WINDOW}]))"

    def increase(self, name: str, *filters: str) -> str:
        """Return the increase of a counter of the gateway in the long window, per version."""
        return f"{_BY} (increase({self.metric(name, *filters)}[{LONG_WINDOW}]))"

    def quantile(self, histogram: str, part: float, *, prefix: str = "vita_gateway_") -> str:
        """Return a quantile of a histogram, per version."""
        buckets = self.metric(f"{histogram}_bucket", prefix=prefix)
        return f"histogram_quantile({part:g}, sum by (job, version, le) (rate({buckets}[{WINDOW}])))"

    @property
    def requests_in_window(self) -> str:
        """The number of requests in the window, per version."""
        return f"{_BY} (increase({self.metric('requests_total', self.route_filter)}[{WINDOW}]))"

    @property
    def _tokens(self) -> str:
        tokens = [self.increase(f"{kind}_tokens_total") for kind in ("prompt", "completion")]
        return f"({tokens[0]} + {tokens[1]} > 0)"

    def _share_of_requests(self, statuses: str) -> str:
        """Return the fraction of the requests with these statuses; 0 when there is none."""
        requests = self.rate("requests_total", self.route_filter)
        matching = self.rate("requests_total", self.route_filter, f'status=~"{statuses}"')
        return f"({matching} or 0 * {requests}) / {requests}"

    def _feedback(self, *filters: str) -> str:
        return self.increase("feedback_total", *filters)

    def _thumbs_up_rate(self) -> str:
        thumbs = self._feedback('kind="thumb"')
        ups = self._feedback('kind="thumb"', 'value=~"1(\\\\.0)?"')
        return f"({ups} or 0 * {thumbs}) / ({thumbs} > 0)"
