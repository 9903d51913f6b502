"""The settings of a run as they can be used again: runs keep what their input files held, the event log where they lay.

settings = recorded_settings(run, ledger)        # for `build(stage.config, settings, where=...)`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita.spine.contents import content_digest
from vita.spine.errors import DataError
from vita.spine.ledger import Ledger, Run


def recorded_settings(run: Run, ledger: Ledger) -> dict[str, Any]:
    """The settings with every file in its place again; refuses where one is gone or holds something else now."""
    return {name: _placed(value, f"{run.life}/{run.step}.{name}", run, ledger) for name, value in run.config.items()}


def place_of(content: str, run: Run, ledger: Ledger) -> str | None:
    """Where the file, folder or URL lay that held this when the run began; None where nobody wrote it down."""
    told = [one["data"] for one in ledger.events(run.artifact) if one["event"] == "made"]
    places = [place for one in told for place, held in (one.get("read") or {}).items() if held == content]
    return next(iter([*places, *ledger.paths_of(content)]), None)


def _placed(value: Any, where: str, run: Run, ledger: Ledger) -> Any:
    if isinstance(value, Mapping) and "content" in value and value.keys() <= {"content", "origin"}:
        content = str(value["content"])
        place = place_of(content, run, ledger)
        if place is None:
            raise DataError(where, f"nobody wrote down where the file lay that held {content[:12]}")
        if content_digest(place, ledger, where=where) != content:
            raise DataError(where, f"{place} has changed since")
        return place
    if isinstance(value, Mapping):
        return {name: _placed(below, f"{where}.{name}", run, ledger) for name, below in value.items()}
    return [_placed(one, where, run, ledger) for one in value] if isinstance(value, list) else value
