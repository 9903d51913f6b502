"""Feedback as the ledger holds it, joined with the answers that it speaks of, ready to be frozen and learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vita.data.feedback import Said
from vita.data.records import Message
from vita.measure.usage import asked_since, said_since
from vita.spine.ledger import Ledger


def collect(ledger: Ledger, *, service: str | None = None, since: float = 0.0) -> Iterator[Said]:
    """Every word of a user on a logged answer, oldest first.

    It counts as consented where both the request and the feedback were. Of any other only the verdict is taken, so that
    what nobody gave is in no artifact. An answer whose content was not kept has no prompt, and says so when it is
    cleaned.
    """
    logged = {row["request"]: row for row in asked_since(ledger, service=service)}
    for row in said_since(ledger, since=since):
        about = logged.get(row["request"])
        if about is None:
            continue
        if not (row["consent"] and about["consent"]):
            yield Said(f"feedback/{row['id']}", row["kind"], row["request"], row["model"], (), "", value=row["value"])
            continue
        content, rejected = row["content"] or {}, None
        if row["kind"] == "vote":
            rejected = _answer(logged.get(content.get("rejected_request_id"), {}))
        yield Said(
            f"feedback/{row['id']}",
            row["kind"],
            row["request"],
            row["model"],
            _prompt(about),
            _answer(about) or "",
            value=row["value"],
            better=content.get("better"),
            rejected=rejected,
            reason=content.get("reason") or "",
            who=row["who"],
            consent=True,
        )


def _prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    asked = row.get("asked") or {}
    if "messages" in asked:
        turns = asked["messages"]
        return tuple(Message(turn["role"], turn["content"]) for turn in turns if isinstance(turn.get("content"), str))
    prompt = asked.get("prompt")
    return (Message("user", prompt),) if isinstance(prompt, str) else ()


def _answer(row: Mapping[str, Any]) -> str | None:
    choices = (row.get("answered") or {}).get("choices") or []
    return choices[0] if choices and isinstance(choices[0], str) else None
