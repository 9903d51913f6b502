"""A batch, with the states and the fields of the OpenAI API, and the store of the batches of a service.

A batch is `validating`, then `in_progress`, `finalizing` and `completed`; or `failed`, if its input is not valid;
or `cancelling` and `cancelled`; or `expired`, if its window has ended.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vita.spine.disk import write_atomically

Kind = Literal["batch", "msgbatch"]
"""A batch of the OpenAI API, or a batch of the Messages API of Anthropic; the beginning of its id."""
ID = re.compile(r"(?:msg)?batch_[0-9a-f]{24}")
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
FINAL: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")
"""States of a batch that has ended."""


@dataclass
class RequestBatch:
    """One batch."""

    id: str
    owner: str
    """The hint of the API key that created the batch; empty while the service has no keys."""
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None
    """Time until the files of the results expire; by default that of all files."""
    status: Status = "validating"
    model: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Errors of the input."""
    times: dict[str, int] = field(default_factory=dict)
    """State -> time of its beginning."""
    total: int = 0
    completed: int = 0
    failed: int = 0
    """Number of requests with an error."""
    expired: int = 0
    """Number of those that were not computed before the end of the window."""
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def kind(self) -> str:
        """The API that created the batch."""
        return self.id.partition("_")[0]

    @property
    def ended(self) -> bool:
        """True if the batch is in a final state."""
        return self.status in FINAL

    def enter(self, status: Status, now: float) -> None:
        """Change the state."""
        self.status = status
        self.times[status] = int(now)

    def body(self) -> dict[str, Any]:
        """Return the batch with the fields of the OpenAI API."""
        states = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **{f"{state}_at": self.times.get(state) for state in states},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }


def file_purpose(batch: RequestBatch) -> str:
    """Return the purpose of the input file of a batch; that of its results ends with `_output`."""
    return "message_batch" if batch.kind == "msgbatch" else "batch"


class BatchStore:
    """The batches of one service: a JSON file for each, beside the results that are not yet files of their own."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self.clock = folder, clock
        folder.mkdir(parents=True, exist_ok=True)
        paths = [path for path in folder.glob("*batch_*.json") if ID.fullmatch(path.stem)]
        self._batches = {path.stem: RequestBatch(**json.loads(path.read_bytes())) for path in paths}

    def create(
        self, *, owner: str, endpoint: str, input_file_id: str, window: str, hours: float,
        metadata: Mapping[str, str] | None, output_seconds: int | None, kind: Kind = "batch", total: int = 0,
    ) -> RequestBatch:  # fmt: skip
        """Create a batch that ends after `hours` at the latest."""
        now = int(self.clock())
        batch = RequestBatch(
            f"{kind}_{secrets.token_hex(12)}", owner, endpoint, input_file_id, window, now, now + int(hours * 3600),
            metadata=None if metadata is None else dict(metadata), output_seconds=output_seconds, total=total,
        )  # fmt: skip
        self.save(batch)
        self._batches[batch.id] = batch
        return batch

    def save(self, batch: RequestBatch) -> None:
        """Write the state of a batch."""
        write_atomically(self._folder / f"{batch.id}.json", json.dumps(asdict(batch)).encode())

    def find(self, id: str, *, owner: str | None, kind: Kind = "batch") -> RequestBatch | None:
        """Return a batch of an owner, or of any owner if `owner` is None."""
        batch = self._batches.get(id)
        return batch if batch is not None and owner in (None, batch.owner) and batch.kind == kind else None

    def all(self, *, owner: str | None, kind: Kind | None = None) -> list[RequestBatch]:
        """Return the batches of an owner, or of all owners if `owner` is None, newest first; by default of any kind."""
        batches = [batch for batch in self._batches.values() if owner in (None, batch.owner)]
        batches = [batch for batch in batches if kind in (None, batch.kind)]
        return sorted(batches, key=lambda batch: (batch.created_at, batch.id), reverse=True)

    def delete(self, batch: RequestBatch) -> None:
        """Delete a batch that has ended."""
        del self._batches[batch.id]
        (self._folder / f"{batch.id}.json").unlink(missing_ok=True)

    def results(self, batch: RequestBatch, kind: Literal["output", "error"]) -> Path:
        """Return the path of the results of a batch that has not ended."""
        return self._folder / f"{batch.id}.{kind}.jsonl"

    def prune(self, seconds: float) -> int:
        """Delete batches that ended before `seconds`; returns their number."""
        limit = self.clock() - seconds
        expired = [batch for batch in self._batches.values() if batch.ended and batch.times[batch.status] < limit]
        for batch in expired:
            self.delete(batch)
        return len(expired)
