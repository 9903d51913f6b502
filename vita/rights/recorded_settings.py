"""The settings of a run for another use: runs record the digests of input files, the event log records their paths.

settings = recorded_settings(run, ledger)        # for `build(stage.config, settings, where=...)`
value = recorded_setting("decontaminate", run, ledger)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vita.spine.contents import applying, content_digest
from vita.spine.erasures import all_erasures
from vita.spine.errors import DataError
from vita.spine.ledger import Ledger, Run


def recorded_settings(run: Run, ledger: Ledger) -> dict[str, Any]:
    """Return the settings with the present paths of all files; raise if a file is missing or has changed."""
    return {
        name: _with_locations(value, f"{run.life}/{run.step}.{name}", run, ledger) for name, value in run.config.items()
    }


def recorded_setting(name: str, run: Run, ledger: Ledger) -> Any:
    """Return one setting with the present paths of its files; None if the run has no such setting.

    Raises `DataError` if one of these files is missing or has changed; the other files of the run are not read.
    """
    return _with_locations(run.config.get(name), f"{run.life}/{run.step}.{name}", run, ledger)


def row_settings(run: Run, ledger: Ledger) -> dict[str, Any]:
    """Return the settings that determine the rows of a run, with the present paths of its sources.

    Other settings that name files, such as rewards and checkpoints, are left out, so that these may be missing. Raises
    `DataError` if a file of a source is missing or has changed.
    """
    sources = {
        name: recorded_setting(name, run, ledger) for name in ("sources", "heldout_sources") if name in run.config
    }
    return {name: value for name, value in run.config.items() if not _names_files(value)} | sources


@contextmanager
def recorded_erasures(run: Run, ledger: Ledger) -> Iterator[None]:
    """Let readers apply the erasures that the run applied."""
    applied = set((run.record or {}).get("erasures", ()))
    with applying(erasure for erasure in all_erasures(ledger) if erasure.id in applied):
        yield


def location_of(content: str, run: Run, ledger: Ledger) -> str | None:
    """Return the location of the file, folder or URL with this content when the run began; None if not recorded."""
    records = [event["data"] for event in ledger.events(run.artifact) if event["event"] == "made"]
    paths = [path for record in records for path, digest in (record.get("read") or {}).items() if digest == content]
    return next(iter([*paths, *ledger.paths_of(content)]), None)


def masked_address_note(location: str) -> str:
    """Return the reason why a recorded address with masked values may not lead to its file; else an empty text."""
    return (
        "; the ledger records the address without its secrets (`***`)"
        if "://" in location and "***" in location
        else ""
    )


def _names_files(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _is_content(value) or any(map(_names_files, value.values()))
    return isinstance(value, list) and any(map(_names_files, value))


def _is_content(value: Mapping[str, Any]) -> bool:
    return "content" in value and value.keys() <= {"content", "origin"}


def _with_locations(value: Any, where: str, run: Run, ledger: Ledger) -> Any:
    if isinstance(value, Mapping) and _is_content(value):
        content = str(value["content"])
        path = location_of(content, run, ledger)
        if path is None:
            raise DataError(where, f"the path of the file with the content {content[:12]} was not recorded")
        try:
            is_same = content_digest(path, ledger, where=where) == content
        except DataError as error:
            if note := masked_address_note(path):
                raise DataError(where, f"{error.problem}{note}") from None
            raise
        if not is_same:
            raise DataError(where, f"{path} has changed since{masked_address_note(path)}")
        return path
    if isinstance(value, Mapping):
        return {name: _with_locations(below, f"{where}.{name}", run, ledger) for name, below in value.items()}
    return [_with_locations(item, where, run, ledger) for item in value] if isinstance(value, list) else value
