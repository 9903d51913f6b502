"""Feedback as the ledger holds it, joined with the answers that it speaks of, ready to be frozen and learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from vita.data.feedback import FeedbackRecord
from vita.data.records import Message
from vita.monitoring.request_log import feedback, requests
from vita.spine.ledger import Ledger

_AT_ONCE = 500
"""Rows held at a time."""


def collect(ledger: Ledger, *, service: str | None = None, since: float = 0.0) -> Iterator[FeedbackRecord]:
    """Every word of a user on a logged answer that still stands, oldest first.

    It counts as consented where both the request and the feedback were. Of any other only the verdict is taken, so that
    what nobody gave is in no artifact. An answer whose content was not kept has no prompt, and says so when it is
    cleaned. The database joins the rows and hands them over a few hundred at a time.
    """
    with ledger.transaction() as database:
        streaming = database.execution_options(stream_results=True, yield_per=_AT_ONCE)
        for row in streaming.execute(_query(service, since)).mappings():
            yield _said(dict(row))


def _query(service: str | None, since: float) -> sa.Select[*tuple[Any, ...]]:
    """Feedback with the request that it speaks of and, of a vote, the other one; content only with consent of both."""
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


def _said(row: Mapping[str, Any]) -> FeedbackRecord:
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
    request = row.get("asked") or {}
    if "messages" in request:
        turns = request["messages"]
        return tuple(Message(turn["role"], turn["content"]) for turn in turns if isinstance(turn.get("content"), str))
    prompt = request.get("prompt")
    return (Message("user", prompt),) if isinstance(prompt, str) else ()


def _answer(answered: Mapping[str, Any] | None) -> str | None:
    choices = (answered or {}).get("choices") or []
    return choices[0] if choices and isinstance(choices[0], str) else None
