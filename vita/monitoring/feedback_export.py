"""Export of feedback from the ledger, joined with the requests and answers that it refers to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from vita.data.feedback import FeedbackRecord
from vita.data.records import Message
from vita.monitoring.request_log import feedback, requests
from vita.spine.ledger import Ledger

_AT_ONCE = 500
"""Rows per fetch."""


def collect(ledger: Ledger, *, service: str | None = None, since: float = 0.0) -> Iterator[FeedbackRecord]:
    """Yield the valid feedback on logged answers, oldest first.

    Content is exported only if the user consented for both the request and the feedback; otherwise a record contains
    only the verdict. Without logged content a record has no prompt, and is dropped later. The database joins the rows
    and returns a few hundred at a time.
    """
    with ledger.transaction() as database:
        streaming = database.execution_options(stream_results=True, yield_per=_AT_ONCE)
        for row in streaming.execute(_query(service, since)).mappings():
            yield _feedback_record(dict(row))


def _query(service: str | None, since: float) -> sa.Select[*tuple[Any, ...]]:
    """Return the query for feedback with its request and, for a vote, the other request; content only with consent."""
    other = requests.alias("other")
    consent = sa.and_(feedback.c.consent, requests.c.consent)
    rejected = feedback.c.content["rejected_request_id"].as_string()
    same_service = [other.c.service == service] if service is not None else []
    query = (
        sa.select(
            feedback.c.id, feedback.c.kind, feedback.c.request, feedback.c.model, feedback.c.value, feedback.c.who,
            consent.label("consent"),
            sa.case((consent, feedback.c.content)).label("content"),
            sa.case((consent, requests.c.asked)).label("asked"),
            sa.case((consent, requests.c.answered)).label("answered"),
            sa.case((consent, other.c.answered)).label("rejected"),
        )
        .select_from(feedback.join(requests, requests.c.request == feedback.c.request).outerjoin(
            other, sa.and_(feedback.c.kind == "vote", other.c.request == rejected, *same_service)))
        .where(feedback.c.at >= since, feedback.c.replaced.is_(None))
        .order_by(feedback.c.id)
    )  # fmt: skip
    return query if service is None else query.where(requests.c.service == service)


def _feedback_record(row: Mapping[str, Any]) -> FeedbackRecord:
    about = (f"feedback/{row['id']}", row["kind"], row["request"], row["model"])
    if not row["consent"]:
        return FeedbackRecord(*about, (), "", value=row["value"])
    content = row["content"] or {}
    return FeedbackRecord(
        *about,
        _prompt(row),
        _answer(row["answered"]) or "",
        value=row["value"],
        better=content.get("better"),
        rejected=_answer(row["rejected"]) if row["kind"] == "vote" else None,
        reason=content.get("reason") or "",
        who=row["who"],
        consent=True,
    )


def _prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the prompt of a logged request; it is empty, so that the record is dropped, for a request with tools."""
    request = row.get("asked") or {}
    if "messages" in request:
        turns = request["messages"]
        if request.get("tools") or any(turn.get("tool_calls") or turn.get("role") == "tool" for turn in turns):
            return ()  # an answer to a request with tools cannot be learned without them
        return tuple(Message(turn["role"], turn["content"]) for turn in turns if isinstance(turn.get("content"), str))
    prompt = request.get("prompt")
    return (Message("user", prompt),) if isinstance(prompt, str) else ()


def _answer(answered: Mapping[str, Any] | None) -> str | None:
    choices = (answered or {}).get("choices") or []
    return choices[0] if choices and isinstance(choices[0], str) else None
