"""The exports of models that the ledger records: files for other programs, linked to the model by their SHA-256."""

from __future__ import annotations

from typing import Any

from vita.spine.ledger import Ledger

EXPORTED = "exported"
"""The event of a model that was exported; its subject is the digest of the model."""


def record_export(ledger: Ledger, model: str, **record: Any) -> None:
    """Record the export of a model."""
    ledger.log(EXPORTED, model, **record)


def is_export(ledger: Ledger, model: str, *, sha256: str) -> bool:
    """Return True if Vita exported a file with this SHA-256 from the model."""
    events = ledger.events(model)
    return any(event["event"] == EXPORTED and (event["data"] or {}).get("sha256") == sha256 for event in events)
