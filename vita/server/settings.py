"""What can be told to a service."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from vita.spine.config import Settings


class ServiceSettings(Settings):
    """The gateway before the replicas, and what it keeps."""

    model_config = ConfigDict(allow_inf_nan=False)

    in_flight: int = Field(default=256, ge=1)
    """Requests answered at a time; one more is told to come again (429)."""
    in_flight_bytes: int = Field(default=64 * 2**20, ge=1024)
    """Bytes of request bodies held at a time; beyond, 429."""
    body_bytes: int = Field(default=1_000_000, ge=1024)
    """The largest body of one request; beyond, 413. Replicas read no more than the default."""
    body_seconds: float = Field(default=30.0, gt=0)
    """How long a client may take to send its body; beyond, 408."""
    header_seconds: float = Field(default=10.0, gt=0)
    """How long a client may take to send its headers; beyond, the connection ends."""
    stall_seconds: float = Field(default=60.0, gt=0)
    """How long a client may take nothing of its answer; beyond, the connection ends and the answer is given up."""
    answer_seconds: float = Field(default=600.0, gt=0)
    """The longest silence of a replica in the middle of a request; beyond, 504."""
    connections: int = Field(default=1024, ge=1)
    """Connections held open at a time."""
    patience: float = Field(default=10.0, ge=0)
    """How long a new request waits while every replica is being restarted; then 503."""
    patience_again: float = Field(default=60.0, ge=0)
    """How long an accepted request, whose replica died, waits for another."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """What a key may ask that has no limit of its own; no limit when absent."""
    log: Literal["none", "metadata", "content"] = "content"
    """What is kept of a request; content only with its sender's consent, and without it the metadata."""
    consent: bool = False
    """Whether a request counts as consented when neither it nor its key says."""
    redact: bool = True
    """Take addresses, numbers and secrets out of content before it is kept."""
    content_days: float | None = Field(default=90.0, ge=0)
    """Days that prompts, answers and users' words are kept; for ever when null."""
    request_days: float | None = Field(default=400.0, ge=0)
    """Days that the figures of a request and the verdicts on it are kept; for ever when null."""
    request_rows: int | None = Field(default=None, ge=0)
    """How many requests are kept at most, the newest; any number when absent."""
    prune_seconds: float = Field(default=3600.0, gt=0)
    """How often what is older is removed, in small batches beside the requests."""
    refusal_patterns: tuple[str, ...] = (
        r"\bI(?:'m| am) (?:sorry|afraid)\b",
        r"\bI (?:cannot|can't|can not|won't|will not) (?:help|do|answer|tell|say|assist)\b",
    )
    """Regular expressions; an answer in which one is found counts as a refusal in the figures."""

    @field_validator("refusal_patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"`{pattern}` is not a regular expression: {error}") from None
        return patterns

    drain_seconds: float = Field(default=30.0, gt=0)
    """How long requests in flight may take when a replica or the service stops."""
    ready_seconds: float = Field(default=300.0, gt=0)
    """How long a replica may take to be ready."""
    probe_seconds: float = Field(default=1.0, gt=0)
    """How long a replica may take to say that it is ready; beyond, it is left out until it answers again."""
    unready_seconds: float = Field(default=60.0, gt=0)
    """How long a replica that served may be unready though nobody told it to leave; then it is started again."""
    refresh_seconds: float = Field(default=1.0, gt=0)
    """How often keys and states are read from the ledger."""
