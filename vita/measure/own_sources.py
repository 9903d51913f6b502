"""Documents that a stage read by itself, from the `sources` in its settings, and that so lie in no artifact.

    found = look("chats.jsonl:3", ledger)
    found.hits        # (run, the source that holds it)
    found.unread      # sources that could not be looked through any more, each with the reason

Runs are known by what their files held; where these lay is told by the event log. A file that has changed since is
looked through, too: found there it is found, and not found it is unread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vita.data.prompts import prompts
from vita.data.sources import Source, dialogues, documents, opinions
from vita.measure.recorded import place_of
from vita.spine.config import build
from vita.spine.contents import content_digest
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.store import canonical_json

Ids = Callable[[Source], Iterator[str]]


@dataclass
class Looked:
    """What came of looking."""

    hits: list[tuple[Run, str]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def look(document: str, ledger: Ledger) -> Looked:
    """Look through what every run that is done read by itself; what several runs read is read once."""
    found, known = Looked(), {}
    for run in ledger.find(state="done"):
        if (read := _READ_BY.get(run.stage)) is None:
            continue
        for given in run.config.get("sources") or ():
            same = (run.stage, canonical_json(given))
            if same not in known:
                known[same] = _holds(given, document, read, run, ledger)
            label, holds, problem = known[same]
            if holds:
                found.hits.append((run, label))
            elif problem:
                found.unread.append(f"{run.life}/{run.step} read {label}: {problem}")
    found.unread = list(dict.fromkeys(found.unread))
    return found


def _holds(
    given: Mapping[str, Any], document: str, read: Ids, run: Run, ledger: Ledger
) -> tuple[str, bool, str | None]:
    """What the source is called, whether the document is in it, and what was in the way of knowing."""
    label = str(given.get("name") or given.get("huggingface") or "the embedded world")
    try:
        path = given.get("path")
        content = str(path["content"]) if isinstance(path, Mapping) else None
        alone = path if isinstance(path, str) else None
        place = place_of(content, run, ledger) if content else alone
        label = place or label
        if given.get("huggingface"):
            return label, False, "a data set of the hub is not looked through"
        if content and place is None:
            return f"what began {content[:12]}", False, "nobody wrote down where it lay"
        values = {**given, "path": place, "on_bad_row": "drop", "repeat": 1.0}
        source = build(Source, values, where=f"{run.life}/{run.step}.sources")
        if any(one == document for one in read(source)):
            return label, True, None
        if content and place and content_digest(place, ledger, where=run.step) != content:
            return label, False, "it has changed since"
    except (VitaError, OSError) as error:
        return label, False, error.problem or str(error) if isinstance(error, VitaError) else str(error)
    return label, False, None


def _of_documents(source: Source) -> Iterator[str]:
    return (one.id for one in documents(source, dropped=_ignore))


def _of_dialogues(source: Source) -> Iterator[str]:
    return (one.id for one in dialogues(source, dropped=_ignore))


def _of_opinions(source: Source) -> Iterator[str]:
    for one in opinions(source, dropped=_ignore):
        yield one.id
        yield from one.metadata.get("requests", ())


def _of_prompts(source: Source) -> Iterator[str]:
    return (one.id for one in prompts(source))


def _ignore(*_: Any) -> None:
    """Rows that no stage can use were learnt by none."""


_READ_BY: Mapping[str, Ids] = {
    "adapt": _of_documents,
    "sft": _of_dialogues,
    "dpo": _of_opinions,
    "reward": _of_opinions,
    "rlhf": _of_prompts,
    "trial": _of_prompts,
}
"""What a stage makes of its sources; what `curate` keeps lies in its corpus."""
