"""The files of curated sources that contain the requested documents; a corpus does not record files.

files, unread = curated_files(trace, ledger)     # paths, and sources that cannot be searched with the reason
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vita.data.records import Document
from vita.data.sources.erased import content_hash
from vita.data.sources.read import Source, SourceSlice, documents, readable_files
from vita.rights.document_trace import DocumentTrace
from vita.rights.recorded_settings import location_of, masked_address_note
from vita.spine.config import build
from vita.spine.contents import content_digest
from vita.spine.errors import VitaError
from vita.spine.file_listing import printable
from vita.spine.ledger import Ledger, Run
from vita.spine.store import canonical_json

_PART = re.compile(r"#(part)?\d+$")
"""End of the id of a part of a long document, and of a document that was renamed because its id was not unique."""


def curated_files(trace: DocumentTrace, ledger: Ledger) -> tuple[list[str], list[str]]:
    """Return the files of the sources of all corpora in the trace that contain its documents, and what was not read.

    Files are searched at their present paths. A document is compared by id, and by content as it was in the corpus.
    """
    corpora = dict.fromkeys(holder.digest for holder in trace.holders if holder.kind == "corpus")
    runs = [run for digest in corpora for run in ledger.find(artifact=digest, stage="curate", state="done")]
    paths, unread, known = list[str](), list[str](), set[bytes]()
    for run in runs:
        for settings in run.config.get("sources") or ():
            same = canonical_json(settings)
            if settings.get("path") is None or same in known:
                continue  # the built-in world and data sets of the Hub have no files of the user
            known.add(same)
            files, problem = _search(settings, trace, run, ledger)
            paths += files
            unread += [f"{run.life}/{run.step} read {problem}"] if problem else []
    return list(dict.fromkeys(paths)), list(dict.fromkeys(unread))


def _search(
    settings: Mapping[str, Any], trace: DocumentTrace, run: Run, ledger: Ledger
) -> tuple[list[str], str | None]:
    """Return the files of a source that contain a requested document, and the problem of an incomplete search."""
    path = settings["path"]
    content = str(path["content"]) if isinstance(path, Mapping) else None
    location = location_of(content, run, ledger) if content else str(path)
    if location is None:
        return [], f"the content {str(content)[:12]}: its path was not recorded"
    # Records that the policy on rights or an erasure excluded are in the file, too.
    rights = {"opted_out": "keep", "consent": "any"}
    values = {**settings, "path": location, "on_bad_row": "drop", "repeat": 1.0, "rights": rights}
    try:
        source = build(Source, values, where=f"{run.life}/{run.step}.sources")
        files = [
            printable(file.path)
            for file in readable_files(source)
            if any(_is_requested(document, trace) for document in _read(SourceSlice(source, (file,))))
        ]
        if content and not files and content_digest(location, ledger, where=run.step) != content:
            return [], f"{location}: it has changed since{masked_address_note(location)}"
    except (VitaError, OSError) as error:
        problem = str((error.problem or error) if isinstance(error, VitaError) else error)
        return [], f"{location}: {problem.removeprefix(f'{location}: ')}{masked_address_note(location)}"
    return files, None


def _read(source_slice: SourceSlice) -> Iterator[Document]:
    return documents(source_slice, dropped=lambda *_: None)


def _is_requested(document: Document, trace: DocumentTrace) -> bool:
    query = trace.query
    is_included = query.includes(document.source, document.licence)
    if query.document is None:
        return is_included
    if is_included and document.id in (query.document, _PART.sub("", query.document)):
        return True
    contents = set[str]().union(*trace.contents.values())
    return bool(contents) and content_hash(document) in contents
