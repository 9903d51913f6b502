"""The plan of an erasure: artifacts to rebuild, models to retire, copies outside of the store, and the commands.

plan = removal_plan(trace, store, ledger, erasure=1, who="Ada", reason="licence ended")
write_plan(Path("erasure-1"), plan)                # plan.json and plan.md
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vita.gates.exports import EXPORTED
from vita.rights.document_trace import TOKENIZER_ONLY, AffectedArtifact, DocumentTrace
from vita.rights.source_files import curated_files
from vita.spine.ledger import Ledger
from vita.spine.plain_text import counted
from vita.spine.store import Store

FORMAT = 1
_GIVEN_AWAY = (EXPORTED, "pushed")
"""Events of copies of a model outside of the store."""
_RETIRED_WITH = {
    "release": "it is retired with its model (`--release`)",
    "archive": "it contains the weights of a model; delete it if they must not be kept",
    "reward": "no later run may use it",
}


def removal_plan(
    trace: DocumentTrace, store: Store, ledger: Ledger, *, erasure: int | None, who: str, reason: str
) -> dict[str, Any]:
    """Return the plan as plain values; `erasure` is None for a plan without an erasure."""
    files, unread = curated_files(trace, ledger)
    query, contents = trace.query, {content for hashes in trace.contents.values() for content in hashes}
    request = {"document": query.document, "source": query.source, "licence": query.licence}
    return {
        "format": FORMAT,
        "request": request,
        "label": query.label,
        "erasure": erasure,
        "by": who,
        "reason": reason,
        "at": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds"),
        "excluded_contents": {"equal": len(contents), "near_copies": len(trace.near_contents - contents)},
        "excluded_documents": [document.as_json() for document in trace.excluded],
        "rebuild": [_rebuild(holder, store, ledger) for holder in _distinct(trace.to_rebuild)],
        "retire": [_retire(holder, ledger, erasure) for holder in _distinct(trace.to_retire)],
        "copies_outside": [
            {"model": holder.digest, "names": list(holder.names), "event": event["event"], **event["data"]}
            for holder in trace.weights if holder.use == "trained on"
            for event in ledger.events(holder.digest) if event["event"] in _GIVEN_AWAY
        ],
        "unaffected_weights": [
            {"digest": holder.digest, "names": list(holder.names), "use": holder.explanation}
            for holder in trace.weights if holder.use != "trained on"
        ],
        "files_of_sources": list(
            dict.fromkeys([*(holder.names[0] for holder in trace.holders if holder.kind == "source"), *files])
        ),
        "not_searched": [*trace.unread, *unread],
    }  # fmt: skip


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write `plan.json` and `plan.md` to a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    (folder / "plan.md").write_text(_markdown(plan), encoding="utf-8")


def _distinct(holders: Iterable[AffectedArtifact]) -> list[AffectedArtifact]:
    """Return each artifact once, with the sum of its documents and all of its files."""
    merged: dict[str, AffectedArtifact] = {}
    for holder in holders:
        known = merged.get(holder.digest)
        if known is None:
            merged[holder.digest] = holder
            continue
        files = tuple(dict.fromkeys((*known.files, *holder.files)))
        values = {**vars(known), "documents": known.documents + holder.documents, "files": files}
        merged[holder.digest] = AffectedArtifact(**values)
    return list(merged.values())


def _rebuild(holder: AffectedArtifact, store: Store, ledger: Ledger) -> dict[str, Any]:
    runs = ledger.find(artifact=holder.digest, state="done")
    steps = [{"life": run.life, "step": run.step, "stage": run.stage} for run in runs]
    made = [event["data"] for event in ledger.events(holder.digest) if event["event"] == "made"]
    is_used = bool(holder.names) or holder.kind in ("model", "reward")
    return {
        "kind": holder.kind,
        "digest": holder.digest,
        "names": list(holder.names),
        "documents": holder.documents if holder.kind in ("corpus", "tokens") else None,
        "folder": str(store.open(holder.digest).path),
        "files": list(holder.files),
        "made_by": steps,
        "read": sorted({path for data in made for path in data.get("read") or {}}),
        "command": f"vita live LIFE_FILE --until {shlex.quote(steps[-1]['step'])}" if steps and is_used else None,
        "note": _rebuild_note(holder, is_used=is_used),
    }


def _rebuild_note(holder: AffectedArtifact, *, is_used: bool) -> str | None:
    if holder.use == TOKENIZER_ONLY:
        return "no training step has read it: rebuild it only if its tokenizer changes"
    return None if is_used else "no name refers to it: a newer artifact replaced it; delete its folder"


def _retire(holder: AffectedArtifact, ledger: Ledger, erasure: int | None) -> dict[str, Any]:
    command = None
    if holder.kind == "model":
        runs = ledger.find(artifact=holder.digest, state="done")
        life = ["--life", runs[-1].life] if runs else []
        reason = f"erasure {erasure}" if erasure else "erasure"
        command = shlex.join(["vita", "retire", holder.name, *life, "--reason", reason])
    return {
        "kind": holder.kind,
        "digest": holder.digest,
        "names": list(holder.names),
        "state": holder.state,
        "through": holder.through,
        "command": command,
        "note": _RETIRED_WITH.get(holder.kind),
    }


def _markdown(plan: dict[str, Any]) -> str:
    erasure, excluded = plan["erasure"], plan["excluded_contents"]
    lines = [f"# Removal of {plan['label']}", ""]
    if erasure is None:
        lines += ["This is a plan: nothing was recorded, and later runs still read the documents.", ""]
    else:
        lines += [f"Erasure {erasure} by {plan['by']} at {plan['at']}{_because(plan['reason'])}.", ""]
    if plan["request"]["document"] is not None:
        lines += [
            f"Excluded contents: {excluded['equal']} equal, and {excluded['near_copies']} near copies that curation "
            "dropped."
        ]
        lines += [
            f"- also excluded: `{entry['id']}` of {entry['source']} ({entry['relation']})"
            for entry in plan["excluded_documents"]
        ]
    lines += ["", "## Rebuild", ""]
    lines += [
        "LIFE_FILE is the file of the life that is named; an artifact of a single command is rebuilt by that command. "
        "Vita deletes no artifact: delete the folders below after the new artifacts are in use.",
        "",
    ] if plan["rebuild"] else ["Nothing.", ""]  # fmt: skip
    for entry in plan["rebuild"]:
        made_by = ", ".join(f"{step['life']}/{step['step']}" for step in entry["made_by"]) or "no recorded run"
        count = f", {counted(entry['documents'], 'document')}" if entry["documents"] is not None else ""
        lines += [f"- {entry['kind']} {_title(entry)}{count}, made by {made_by}"]
        lines += [f"  - folder: `{entry['folder']}`"]
        lines += [f"  - files: {', '.join(f'`{name}`' for name in entry['files'])}"] if entry["files"] else []
        lines += [f"  - made from: {', '.join(f'`{path}`' for path in entry['read'])}"] if entry["read"] else []
        lines += [f"  - `{entry['command']}`"] if entry["command"] else []
        lines += [f"  - {entry['note']}"] if entry["note"] else []
        lines += [] if entry["command"] or entry["note"] else ["  - no recorded run"]
    lines += ["", "## Retire", ""]
    lines += [] if plan["retire"] else ["Nothing."]
    for entry in plan["retire"]:
        action = f"`{entry['command']}`" if entry["command"] else entry["note"] or ""
        lines += [f"- {entry['kind']} {_title(entry)} ({entry['state']}), through {entry['through']}: {action}"]
    lines += ["", "## Copies outside of the store", ""]
    lines += [] if plan["copies_outside"] else ["No recorded export or upload."]
    for entry in plan["copies_outside"]:
        target = entry.get("repository") or entry.get("path") or "an unknown target"
        lines += [f"- {entry['event']}: {target}, from the model `{entry['model']}`"]
    for title, values in (
        ("Files of sources that contain it", plan["files_of_sources"]),
        ("Not searched", plan["not_searched"]),
    ):
        lines += ["", f"## {title}", "", *([f"- {value}" for value in values] or ["None."])]
    return "\n".join([*lines, ""])


def _because(reason: str) -> str:
    return f", because of: {reason}" if reason else ""


def _title(entry: dict[str, Any]) -> str:
    names = f"{', '.join(entry['names'])} " if entry["names"] else ""
    return f"{names}`{entry['digest']}`"
