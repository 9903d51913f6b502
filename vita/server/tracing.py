"""Traces with OpenTelemetry: spans of requests, W3C trace context between processes, and export by OTLP over HTTP.

    tracing = open_tracing("cat")                        # without an endpoint, nothing is recorded
    span = tracing.span("chat cat", kind="server", parent=request.headers)
    span.set(Attribute.REQUEST_MODEL, "cat"); headers |= span.headers(); span.end()

A thread exports the spans in batches. Its queue is limited: spans that do not fit are dropped, and requests never wait.
The SDK reads the standard variables `OTEL_*` (sampler, headers, timeouts, resource attributes).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from vita import __version__
from vita.spine import machine
from vita.spine.errors import MissingExtra

Value = str | int | float | bool | list[str]
TRACE_HEADERS = ("traceparent", "tracestate")
"""The headers of the W3C trace context."""


class Attribute(StrEnum):
    """Names of span attributes: those of the GenAI conventions of OpenTelemetry, and our own with `vita.`.

    The conventions are still in development, so the names are here and not those of a package.
    """

    OPERATION = "gen_ai.operation.name"
    PROVIDER = "gen_ai.provider.name"
    REQUEST_MODEL = "gen_ai.request.model"
    REQUEST_TEMPERATURE = "gen_ai.request.temperature"
    REQUEST_TOP_P = "gen_ai.request.top_p"
    REQUEST_TOP_K = "gen_ai.request.top_k"
    REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
    REQUEST_SEED = "gen_ai.request.seed"
    REQUEST_STOP = "gen_ai.request.stop_sequences"
    REQUEST_CHOICES = "gen_ai.request.choice.count"
    REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
    REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
    RESPONSE_MODEL = "gen_ai.response.model"
    RESPONSE_ID = "gen_ai.response.id"
    FINISH_REASONS = "gen_ai.response.finish_reasons"
    INPUT_TOKENS = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
    INPUT_MESSAGES = "gen_ai.input.messages"
    OUTPUT_MESSAGES = "gen_ai.output.messages"
    ERROR_TYPE = "error.type"
    METHOD = "http.request.method"
    ROUTE = "http.route"
    STATUS = "http.response.status_code"
    REQUEST_ID = "vita.request.id"
    SERVICE = "vita.service"
    MODEL_DIGEST = "vita.model.digest"
    REPLICA = "vita.replica"
    FIRST_BYTE_SECONDS = "vita.time_to_first_byte"
    REFUSED = "vita.response.refused"


class TraceSpan:
    """A span of a trace; one without a recorder ignores all calls."""

    def __init__(self, recorded: Any = None, tracing: Tracing | None = None) -> None:
        self._span, self._tracing = recorded, tracing

    @property
    def is_recorded(self) -> bool:
        """True if attributes are exported, so that they are worth computing."""
        return self._span is not None and self._span.is_recording()

    def set(self, attribute: Attribute, value: Value | None) -> None:
        """Set an attribute; a missing value is left out."""
        if self._span is not None and value is not None:
            self._span.set_attribute(str(attribute), value)

    def event(self, name: str) -> None:
        """Add an event at the present time."""
        if self._span is not None:
            self._span.add_event(name)

    def child(self, name: str) -> TraceSpan:
        """Start a span for a request to another process."""
        if self._span is None or self._tracing is None:
            return NO_SPAN
        return self._tracing.span(name, kind="client", parent=self.headers())

    def headers(self) -> dict[str, str]:
        """Return the headers that make the receiver of a request continue this trace."""
        carrier: dict[str, str] = {}
        if self._span is not None:
            from opentelemetry.trace import set_span_in_context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self._span))
        return carrier

    def fail(self, kind: str) -> None:
        """Mark the operation as failed, with a status or the name of an error."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self.set(Attribute.ERROR_TYPE, kind)
            self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """End the span; later calls have no effect."""
        if self._span is not None and self._span.is_recording():
            self._span.end()


NO_SPAN = TraceSpan()
"""The span of an operation that is not traced."""


class Tracing:
    """The tracer of one process."""

    def __init__(self, provider: Any = None) -> None:
        """`provider` is a `TracerProvider`; None records nothing."""
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("vita", __version__)

    @property
    def is_on(self) -> bool:
        """True if spans are recorded."""
        return self._tracer is not None

    def span(
        self, name: str, *, kind: Literal["server", "client"], parent: Mapping[str, str] | None = None
    ) -> TraceSpan:
        """Start a span, in the trace that the headers `parent` name, or in a new one."""
        if self._tracer is None:
            return NO_SPAN
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {header: parent[header] for header in TRACE_HEADERS if parent and header in parent}
        context = TraceContextTextMapPropagator().extract(carrier, Context())
        kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT}
        return TraceSpan(self._tracer.start_span(name, context, kind=kinds[kind]), self)

    def close(self, seconds: float = 2.0) -> None:
        """Export the remaining spans for at most `seconds`; the others are dropped."""
        if self._provider is not None:
            worker = threading.Thread(target=self._provider.shutdown, name="end of traces", daemon=True)
            worker.start()
            worker.join(seconds)


def open_tracing(service: str) -> Tracing:
    """Return the tracer of a process: to the endpoint in `OTEL_EXPORTER_OTLP_*`, or one that records nothing."""
    if not machine.exports_traces():
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise MissingExtra("OTEL_EXPORTER_OTLP_ENDPOINT", "otel") from None
    attributes = {"service.version": __version__}
    if not machine.names_traced_service():
        attributes["service.name"] = service
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
