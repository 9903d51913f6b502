"""Exported feedback contains texts only with consent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from vita.monitoring import request_log
from vita.monitoring.feedback_export import collect
from vita.spine.ledger import Ledger

SECRET = "the name of my cat"


def _write_request(ledger: Ledger, request: str, *, consent: bool) -> None:
    row = {
        "request": request, "response": request, "service": "cat", "version": "cat:1", "model": "m" * 64,
        "release": "r" * 64, "route": "/v1/chat/completions", "status": 200, "figures": {}, "at": 1.0,
        "asked": {"messages": [{"role": "user", "content": SECRET}]}, "answered": {"choices": [SECRET]},
        "consent": consent,
    }  # fmt: skip
    with ledger.transaction() as database:
        database.execute(sa.insert(request_log.requests).values(row))


def _write_feedback(ledger: Ledger, request: str, kind: str, content: Mapping[str, Any], *, consent: bool) -> None:
    row = {"request": request, "model": "m" * 64, "kind": kind, "value": 1.0, "content": dict(content), "who": "ann",
           "consent": consent, "at": 2.0}  # fmt: skip
    with ledger.transaction() as database:
        database.execute(sa.insert(request_log.feedback).values(row))


@pytest.mark.parametrize(("request_", "feedback"), [(False, True), (True, False), (False, False)])
def test_without_consent_only_the_verdict_is_exported(any_ledger, request_, feedback):
    _write_request(any_ledger, "r1", consent=request_)
    _write_request(any_ledger, "r2", consent=True)
    for kind, content in (
        ("thumb", {}),
        ("edit", {"better": SECRET}),
        ("flag", {"reason": SECRET}),
        ("vote", {"rejected_request_id": "r2"}),
    ):
        _write_feedback(any_ledger, "r1", kind, content, consent=feedback)
    voices = list(collect(any_ledger))
    assert [voice.kind for voice in voices] == ["thumb", "edit", "flag", "vote"]
    assert all(voice.value == 1.0 and not voice.consent and voice.request == "r1" for voice in voices)
    assert not any(SECRET in str(voice.as_json()) or voice.who for voice in voices)


def test_with_consent_for_request_and_feedback_the_texts_are_exported(any_ledger):
    _write_request(any_ledger, "r1", consent=True)
    _write_feedback(any_ledger, "r1", "edit", {"better": "a better cat"}, consent=True)
    (voice,) = collect(any_ledger)
    assert (voice.prompt[0].content, voice.answer, voice.better) == (SECRET, SECRET, "a better cat")
    assert voice.consent and voice.who == "ann"
