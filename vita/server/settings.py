"""Settings of a service."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from vita.spine.config import Settings

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


class ServiceSettings(Settings):
    """Limits of the gateway, retention of its records, and timing of the replicas."""

    model_config = ConfigDict(allow_inf_nan=False)

    in_flight: int = Field(default=256, ge=1)
    """Maximum number of concurrent requests; more are refused with 429."""
    in_flight_bytes: int = Field(default=64 * 2**20, ge=1024)
    """Maximum total size of the request bodies in memory; more are refused with 429."""
    idempotency_seconds: float = Field(default=1.0, gt=0)
    """Maximum time that a request with an `Idempotency-Key` waits for its record in the ledger; then it is answered
    without a record."""
    idempotency_hours: float = Field(default=24.0, gt=0)
    """Validity of an `Idempotency-Key`, in hours."""
    ledger_region: str | None = None
    """Region of the ledger. A request that is limited to regions is stored only if this region is one of them."""
    cors_origins: tuple[str, ...] = ()
    """Origins of the web pages that may use the API in a browser, such as `https://chat.example.org`; none by default.
    Cookies are never allowed."""
    body_bytes: int = Field(default=1_000_000, ge=1024)
    """Maximum size of one request body; larger ones are refused with 413. Replicas read at most the default."""
    body_seconds: float = Field(default=30.0, gt=0)
    """Maximum time to receive a body, in seconds; then 408."""
    header_seconds: float = Field(default=10.0, gt=0)
    """Maximum time to receive the headers, in seconds; then the connection is closed."""
    stall_seconds: float = Field(default=60.0, gt=0)
    """Maximum time that a client may read nothing of its response; then the connection is closed."""
    answer_seconds: float = Field(default=600.0, gt=0)
    """Maximum time without data from a replica during a request; then 504."""
    connections: int = Field(default=1024, ge=1)
    """Maximum number of open connections."""
    patience: float = Field(default=10.0, ge=0)
    """Maximum time that a new request waits for a replica; then 503."""
    patience_again: float = Field(default=60.0, ge=0)
    """Maximum time that a request whose replica died waits for another replica."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Rate limit of a key without its own limit; no limit when absent."""
    log: Literal["none", "metadata", "content"] = "content"
    """Data that is stored of a request; content only with consent, otherwise the metadata."""
    consent: bool = False
    """Default consent of a request when neither the request nor its key specifies it."""
    redact: bool = True
    """Remove addresses, numbers and secrets from content before it is stored."""
    content_days: float | None = Field(default=90.0, ge=0)
    """Retention of prompts, completions and feedback texts in days; unlimited when null."""
    request_days: float | None = Field(default=400.0, ge=0)
    """Retention of request metadata and feedback values in days; unlimited when null."""
    request_rows: int | None = Field(default=None, ge=0)
    """Maximum number of stored requests, the newest; unlimited when absent."""
    prune_seconds: float = Field(default=3600.0, gt=0)
    """Interval at which expired rows are removed, in small batches."""
    refusal_patterns: tuple[str, ...] = (
        r"\bI(?:'m| am) (?:sorry|afraid)\b",
        r"\bI (?:cannot|can't|can not|won't|will not) (?:help|do|answer|tell|say|assist)\b",
    )
    """Regular expressions; a completion that matches one counts as a refusal in the metrics."""

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"`{origin}` is not an origin such as https://host or http://host:3000")
        return origins

    @field_validator("refusal_patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"`{pattern}` is not a regular expression: {error}") from None
        return patterns

    file_bytes: int = Field(default=100 * 2**20, ge=1024)
    """Maximum size of an uploaded file; larger ones are refused with 413."""
    files_bytes: int = Field(default=2**30, ge=1024)
    """Maximum total size of the uploaded files; more are refused."""
    file_days: float | None = Field(default=30.0, gt=0)
    """Time until uploaded files, batches and their results are deleted, in days; never when null."""
    batch_requests: int = Field(default=50_000, ge=1)
    """Maximum number of requests of a batch."""
    batches: int = Field(default=100, ge=1)
    """Maximum number of batches of a key that have not ended; more are refused with 429."""
    batch_in_flight: int = Field(default=8, ge=1)
    """A request of a batch starts only while fewer requests than this are in progress, so that clients wait little."""
    drain_seconds: float = Field(default=30.0, gt=0)
    """Maximum time for requests in flight when a replica or the service stops."""
    ready_seconds: float = Field(default=300.0, gt=0)
    """Maximum time until a replica is ready."""
    probe_seconds: float = Field(default=1.0, gt=0)
    """Timeout of a readiness probe; then the replica receives no requests until it responds again."""
    unready_seconds: float = Field(default=60.0, gt=0)
    """Maximum time that a replica may be unready without being drained; then it is restarted."""
    price_per_replica_hour: float | None = Field(default=None, ge=0)
    """Price of one replica for one hour, in any currency, for the cost of tokens; unknown by default."""
    trace_endpoint: str | None = Field(default=None, pattern="^https?://[^/]+")
    """URL to which traces are exported with OTLP over HTTP, such as `http://host:4318/v1/traces`. By default, the
    endpoint in `OTEL_EXPORTER_OTLP_ENDPOINT`; without it, no traces are exported."""
    trace_content: bool = False
    """Also export prompts and completions in traces, only with consent and redacted as in the request log."""
    refresh_seconds: float = Field(default=1.0, gt=0)
    """Interval at which API keys and model states are read from the ledger."""
