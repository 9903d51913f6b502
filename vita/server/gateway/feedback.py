"""User feedback on responses: validated strictly, linked to a logged request, stored before it is acknowledged.

The latest feedback counts: a changed thumb, edit, flag or vote of the same key on the same responses replaces the
earlier one, and identical feedback is not stored twice. The value is always stored; texts are stored only with consent
and only where the service stores content.

{"request_id": ..., "kind": "thumb", "value": 1 or -1}
{"request_id": ..., "kind": "edit", "better": "the answer it should have been"}
{"request_id": ..., "kind": "flag", "reason": "what is wrong with it"}
{"kind": "vote", "chosen_request_id": ..., "rejected_request_id": ...}       # "value": 0 for a tie
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field, ValidationError, model_validator

from vita.monitoring.request_log import feedback, requests
from vita.server.errors import ApiError, unavailable
from vita.server.gateway.keys import Key
from vita.server.gateway.redaction import redact
from vita.server.gateway.request_log import RequestLog, StoragePolicy
from vita.server.sites.idempotency import find_record
from vita.server.sites.residency import require_region
from vita.spine.config import Settings
from vita.spine.errors import LedgerError, VitaError
from vita.spine.ledger import Ledger

TEXT = 32_768
TEXTS = ("better", "reason")
"""Fields with free text."""
STORE_SECONDS, MAX_WAITING = 10.0, 64
"""Timeout of storing feedback, and the maximum number of waiting feedback requests."""

_FIELDS = {
    "thumb": ({"request_id", "value"}, {"reason"}),
    "edit": ({"request_id", "better"}, {"reason"}),
    "flag": ({"request_id", "reason"}, set()),
    "vote": ({"chosen_request_id", "rejected_request_id"}, {"value", "reason"}),
}
"""Kind -> required fields, optional fields."""


class FeedbackRequest(Settings):
    """Feedback on one response, or a comparison of two."""

    kind: Literal["thumb", "edit", "flag", "vote"]
    """Kind of feedback: thumb up or down, corrected response, complaint, or preference between two responses."""
    request_id: str | None = Field(None, min_length=1, max_length=64)
    """The `x-request-id` of the response, or the `id` in its body."""
    value: int | None = Field(None, ge=-1, le=1)
    """1 or -1 for a thumb; 1, or 0 for a tie, for a vote."""
    better: str | None = Field(None, min_length=1, max_length=TEXT)
    """The corrected response."""
    reason: str | None = Field(None, min_length=1, max_length=TEXT)
    """The reason."""
    chosen_request_id: str | None = Field(None, min_length=1, max_length=64)
    """The better of two responses."""
    rejected_request_id: str | None = Field(None, min_length=1, max_length=64)
    """The worse of two responses."""
    consent: bool = False
    """Consent to store the texts and to train later versions on the feedback."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> FeedbackRequest:
        needed, possible = _FIELDS[self.kind]
        used = {name for name in type(self).model_fields if getattr(self, name) is not None} - {"kind", "consent"}
        for name in sorted(needed - used):
            raise ValueError(f"`{name}` is required for the kind `{self.kind}`")
        for name in sorted(used - needed - possible):
            raise ValueError(f"`{name}` does not belong to the kind `{self.kind}`")
        if self.value is not None and self.value == {"thumb": 0, "vote": -1}.get(self.kind):
            raise ValueError(f"`value` of the kind `{self.kind}` is 1 or {-1 if self.kind == 'thumb' else 0}")
        if self.kind == "vote" and self.chosen_request_id == self.rejected_request_id:
            raise ValueError("`rejected_request_id` must be another request than `chosen_request_id`")
        return self


def read_feedback(body: Any) -> FeedbackRequest:
    """Validate the body of a feedback request; raises `ApiError` with the wrong field."""
    try:
        return FeedbackRequest.model_validate(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        field = message.split("`")[1] if first["type"] == "value_error" else None
        param = field or ".".join(map(str, first["loc"])) or None
        if not field:
            message = f"`{param}`: {message}"
        raise ApiError(400, message, param=param, code="invalid_feedback") from None


class FeedbackStore:
    """Stores feedback in threads, within a time limit, so that a slow ledger delays no other request."""

    def __init__(self, ledger: Ledger, log: RequestLog, *, region: str | None = None) -> None:
        """`region` is that of the site; feedback on a request that is limited to other regions is refused."""
        self._ledger, self._log, self._region = ledger, log, region
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="feedback")
        self._waiting = 0

    async def store(self, request: FeedbackRequest, key: Key) -> dict[str, Any]:
        """Store feedback; raises `ApiError` 503 when the ledger is slow or too many feedback requests wait."""
        refusal = unavailable("The feedback could not be stored; send it again", code="not_stored")
        if self._waiting >= MAX_WAITING:
            raise refusal
        self._waiting += 1
        storing = asyncio.get_running_loop().run_in_executor(self._threads, self._store, request, key)
        try:
            return await asyncio.wait_for(storing, STORE_SECONDS)
        except (VitaError, TimeoutError):
            raise refusal from None
        finally:
            self._waiting -= 1

    def _store(self, request: FeedbackRequest, key: Key) -> dict[str, Any]:
        if not self._log.flush(STORE_SECONDS):  # the feedback may refer to a request that has just ended
            raise LedgerError("feedback", "the request log is not written yet")
        return store_feedback(self._ledger, request, key=key, policy=self._log.policy, region=self._region)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def store_feedback(
    ledger: Ledger, request: FeedbackRequest, *, key: Key, policy: StoragePolicy, region: str | None = None
) -> dict[str, Any]:
    """Store feedback and return a description of it; a request of another key counts as not found.

    The request may have been answered by any site with the same ledger. If the gateway of a request stopped before it
    wrote its log entry, feedback refers to the newest repetition of the request, or to its idempotency record.
    """
    if policy.level == "none":
        raise _not_found(request.chosen_request_id or request.request_id or "")
    about = _logged(ledger, request.chosen_request_id or request.request_id or "", key)
    require_region(about["figures"].get("regions"), region)
    content: dict[str, Any] = {}
    if request.kind == "vote":
        content["rejected_request_id"] = _logged(ledger, request.rejected_request_id or "", key)["request"]
    texts = {name: text for name in TEXTS if (text := getattr(request, name)) is not None}
    if request.consent and policy.level == "content":
        content |= {name: redact(text) if policy.redact else text for name, text in texts.items()}
    left_out = [name for name in texts if name not in content]
    value = request.value if request.value is not None or request.kind != "vote" else 1
    consent = request.consent and not left_out  # incomplete feedback is not used for training
    row = {"request": about["request"], "model": about["model"], "kind": request.kind, "value": value,
           "content": content, "who": key.hint or None, "consent": consent, "at": time.time()}  # fmt: skip
    with ledger.exclusive(f"feedback of {row['who']}") as database:
        earlier = _standing(database, row)
        repeated = [record for record in earlier if _same_words(dict(record), row)]
        if repeated:
            number = repeated[-1]["id"]
        else:
            ids = [record["id"] for record in earlier]
            database.execute(sa.update(feedback).where(feedback.c.id.in_(ids)).values(replaced=row["at"]))
            number = database.execute(sa.insert(feedback).values(row).returning(feedback.c.id)).scalar_one()
    return {"id": number, "object": "feedback", "request_id": about["request"], "kind": request.kind,
            "version": about["version"], "left_out": left_out, "repeated": bool(repeated),
            "replaces": None if repeated or not earlier else earlier[-1]["id"]}  # fmt: skip


def _standing(database: sa.Connection, row: dict[str, Any]) -> list[Any]:
    """Return the current feedback of the same kind by the same key on the same responses."""
    rejected = feedback.c.content["rejected_request_id"].as_string()
    same_responses: Any = feedback.c.request == row["request"]
    if row["kind"] == "vote":
        other = row["content"]["rejected_request_id"]
        swapped = sa.and_(feedback.c.request == other, rejected == row["request"])
        same_responses = sa.or_(sa.and_(same_responses, rejected == other), swapped)
    same_key = feedback.c.who.is_(None) if row["who"] is None else feedback.c.who == row["who"]
    query = sa.select(feedback).where(
        same_responses, feedback.c.kind == row["kind"], same_key, feedback.c.replaced.is_(None)
    )
    return list(database.execute(query.order_by(feedback.c.id)).mappings())


def _same_words(earlier: dict[str, Any], row: dict[str, Any]) -> bool:
    """Return True if only the time differs, as when a client retries."""
    return all(earlier[name] == row[name] for name in ("request", "value", "content", "consent"))


def _logged(ledger: Ledger, reference: str, key: Key) -> dict[str, Any]:
    """Return the logged request with this `x-request-id` or response id."""
    readable = _readable(ledger, reference, key)
    if not readable and (record := find_record(ledger, reference, key=key.hint)) is not None:
        unlogged = {"request": record.latest, "model": record.model, "version": record.version,
                    "figures": {"regions": record.regions}}  # fmt: skip
        readable = [*_readable(ledger, record.latest, key), unlogged]
    if not readable:
        raise _not_found(reference)
    return readable[0]


def _not_found(reference: str) -> ApiError:
    message = f"This API key has no logged request `{reference}`; feedback refers to a logged request."
    return ApiError(404, message, param="request_id", code="request_not_found")


def _readable(ledger: Ledger, reference: str, key: Key) -> list[dict[str, Any]]:
    """Return the log entries with this request or response id that belong to a key, the newest first."""
    columns = ("id", "request", "model", "version", "key", "figures")
    query = sa.select(*(requests.c[name] for name in columns))
    query = query.where(sa.or_(requests.c.request == reference, requests.c.response == reference))
    with ledger.transaction() as database:
        rows = [dict(row) for row in database.execute(query.order_by(requests.c.id.desc())).mappings()]
    return [row for row in rows if key.allows("admin") or row["key"] == (key.hint or None)]
