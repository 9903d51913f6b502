"""A receiver of traces: an HTTP server that parses OTLP, as a collector does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class ReceivedSpan:
    """A span with its identity in hexadecimal digits."""

    name: str
    kind: str
    service: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    events: list[str]
    is_error: bool


@dataclass
class Receiver:
    """The spans that were received so far, and the address for `OTEL_EXPORTER_OTLP_ENDPOINT`."""

    url: str = ""
    status: int = 200
    seconds: float = 0.0
    """Delay before each response."""
    spans: list[ReceivedSpan] = field(default_factory=list)

    def wait_for(self, count: int, *, seconds: float = 20.0) -> list[ReceivedSpan]:
        """Return the spans as soon as there are `count` of them."""
        deadline = time.monotonic() + seconds
        while len(self.spans) < count:
            assert time.monotonic() < deadline, [span.name for span in self.spans]
            time.sleep(0.02)
        return list(self.spans)


@contextmanager
def otlp_receiver(**options: Any) -> Iterator[Receiver]:
    """Run a receiver on a free port."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    receiver = Receiver(**options)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(receiver.seconds)
            if receiver.status == 200:
                assert self.headers["Content-Type"] == "application/x-protobuf"
                assert self.path == "/v1/traces"
                receiver.spans += _spans(ExportTraceServiceRequest.FromString(data))
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


def _spans(request: Any) -> Iterator[ReceivedSpan]:
    for resource_spans in request.resource_spans:
        service = _attributes(resource_spans.resource.attributes)["service.name"]
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                kind = span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower()
                yield ReceivedSpan(
                    span.name, kind, service, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                    _attributes(span.attributes), [event.name for event in span.events], span.status.code == 2,
                )  # fmt: skip


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)
